"""Who gets in with a browser, how, and what a stranger's site can make that browser do."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.services import Service, bearer, sign_in
from playwright.sync_api import expect

PAGES = [
    "/",
    "/new",
    "/people",
    "/audit",
    "/annotate/sort/labels",
    "/runs/sort",
    "/compare?run=sort&run=sort",
    "/parts/runs",
    "/runs/sort/parts/generations",
    "/annotate/sort/guidelines",
]
HTML = {"Accept": "text/html"}


def cookie(service: Service, token: str) -> dict[str, str]:
    """The header of a new session."""
    return {"Cookie": f"atgen={sign_in(service.url, token)}"}


def find_csrf(service: Service, signed: dict[str, str]) -> str:
    found = re.search(
        'name="csrf" content="([0-9a-f]{64})"', httpx.get(service.url, headers=signed).text
    )
    assert found
    return found[1]


def test_a_person_signs_in_by_keyboard_and_out(
    visit: Callable[..., Visitor], service: Service
) -> None:
    visitor = visit(token=None)
    page = visitor.page
    page.goto("/runs/sort?x=1#rounds")
    assert "/sign-in?next=%2Fruns%2Fsort%3Fx%3D1" in page.url
    assert find_barriers(page) == []
    keep_screenshot(page, "sign-in")
    page.keyboard.type(service.admin)
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/sort?x=1*")
    kept = visitor.context.cookies()[0]
    assert (kept["name"], kept["httpOnly"], kept["sameSite"], kept["secure"]) == (
        "atgen",
        True,
        "Strict",
        False,
    )
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").press("Enter")
    page.wait_for_url("**/sign-in")
    assert visitor.context.cookies() == []


def test_a_wrong_token_is_told_and_gives_no_cookie(
    visit: Callable[..., Visitor], service: Service
) -> None:
    visitor = visit(token=None)
    page = visitor.page
    page.goto("/sign-in")
    page.get_by_label("Token").fill(service.admin + "x")
    page.get_by_role("button", name="Sign in").click()
    assert "unknown or was revoked" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Token").get_attribute("aria-invalid") == "true"
    assert visitor.context.cookies() == []
    assert len(visitor.refused) == 1  # the answer's 401


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 401),
        ("a\0b", 401),
        ("é", 401),
        ("x" * 8_000, 401),
        ("atgen_0_\ud800", 401),
        ("x" * 100_000, 413),
    ],
)
def test_nonsense_is_a_wrong_token_too(service: Service, token: str, status: int) -> None:
    """And a body that no token needs is not read."""
    form = {"token": token.encode("utf-8", "surrogatepass")}
    answer = httpx.post(service.url + "/sign-in", data=form, headers={"Origin": service.url})
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers


def test_strangers_are_sent_to_sign_in_and_programs_told_401(service: Service) -> None:
    for path in PAGES:
        answer = httpx.get(service.url + path, headers=HTML)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/sign-in?next=%2F"), path
        assert httpx.get(service.url + path).status_code == 401, path
        assert (
            httpx.get(service.url + path, headers=HTML | bearer("nonsense")).status_code == 401
        ), path
    assert httpx.get(service.url + "/api/v1/runs", headers=HTML).status_code == 401
    signed = cookie(service, service.annotator)
    for path in (
        "/new",
        "/people",
        "/runs/sort/parts/budget",
        "/annotate/sort/labels",
        "/compare?run=a&run=b",
        "/runs/sort/parts/generations",
        "/runs/sort/parts/selection",
    ):
        answer = httpx.get(service.url + path, headers=HTML | signed)
        assert answer.status_code == 403, path
        assert "This did not work" in answer.text, path


def test_a_link_on_another_site_finds_who_is_signed_in(
    visit: Callable[..., Visitor], service: Service
) -> None:
    link = f"data:text/html,<a href='{service.url}/runs/sort?x=1'>a run</a>"
    known, stranger = visit().page, visit(token=None).page
    for page, landed in (
        (known, "**/runs/sort?x=1"),
        (stranger, "**/sign-in?next=%2Fruns%2Fsort%3Fx%3D1"),
    ):
        page.goto(link)
        page.get_by_text("a run").click()
        page.wait_for_url(landed)
    expect(known.get_by_role("heading", name="sort")).to_be_visible()
    foreign = HTML | {"Sec-Fetch-Site": "cross-site"}
    assert "evil" not in httpx.get(service.url + "//evil.example/x", headers=foreign).text


@pytest.mark.parametrize(
    "next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_sign_in_goes_nowhere_else(service: Service, next: str) -> None:
    form = {"token": service.admin, "next": next}
    answer = httpx.post(service.url + "/sign-in", data=form, headers={"Origin": service.url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_behind_tls_the_cookie_is_secure_and_the_host_s_own(service: Service) -> None:
    headers = {"Origin": service.url, "X-Forwarded-Proto": "https"}
    answer = httpx.post(service.url + "/sign-in", data={"token": service.admin}, headers=headers)
    given = answer.headers["set-cookie"]
    assert given.startswith("__Host-atgen=")
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(given.split("; "))
    assert answer.headers["strict-transport-security"]


def test_writes_with_a_cookie_must_come_from_our_own_pages(service: Service) -> None:
    stop, own = f"{service.url}/api/v1/runs/sort/stop", {"Origin": service.url}
    signed = cookie(service, service.admin)
    token = {"X-CSRF-Token": find_csrf(service, signed)}
    other = find_csrf(service, cookie(service, service.annotator))
    for headers in (
        signed,
        signed | own,
        signed | token,
        signed | token | {"Origin": "https://evil.example"},
        signed | token | own | {"Sec-Fetch-Site": "cross-site"},
        signed | own | {"X-CSRF-Token": "0" * 64},
        signed | own | {"X-CSRF-Token": other},
    ):
        assert httpx.post(stop, headers=headers).status_code == 403, headers
    assert httpx.post(stop, headers=signed | token | own).status_code == 202
    assert httpx.post(stop, headers=bearer(service.admin)).status_code == 202
    assert httpx.post(service.url + "/sign-in", data={"token": service.admin}).status_code == 403


def test_every_answer_forbids_what_is_not_ours(service: Service) -> None:
    signed = cookie(service, service.admin)
    for path in (*PAGES, "/sign-in", "/nowhere", "/healthz", "/api/v1/runs"):
        answer = httpx.get(service.url + path, headers=HTML | signed)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(
            r"<script>|<style|style=|\son\w+=|https?://(?!127|www\.w3\.org)", answer.text
        ), path


def test_assets_are_kept_by_browsers_and_nothing_else_is_served(service: Service) -> None:
    text = httpx.get(service.url + "/sign-in").text
    names = re.findall(r'"(/static/[0-9a-f]{16}/[\w.]+)"', text)
    assert len(names) == 3
    for name in names:
        answer = httpx.get(service.url + name)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    root = names[0].rpartition("/")[0]
    for name in ("nothing.js", "..%2fassets.py", "%2e%2e/assets.py", "style.css%00"):
        assert httpx.get(f"{service.url}{root}/{name}").status_code in (401, 404), name


@pytest.mark.parametrize("path", ["/", "/new?preset=demo", "/runs/sort"])
def test_pages_weigh_less_than_100_kb_without_data(
    visit: Callable[..., Visitor], path: str
) -> None:
    page = visit().page
    weights: dict[str, int] = {}

    def weigh(request: Any) -> None:
        weights.setdefault(request.url, len(request.response().body()))

    page.on("requestfinished", weigh)
    page.goto(path, wait_until="networkidle")
    shell = {
        url: weight
        for url, weight in weights.items()
        if "/parts/" not in url and "/api/" not in url
    }
    assert len([url for url in shell if "/static/" in url]) >= 4
    assert sum(shell.values()) < 100_000, shell
