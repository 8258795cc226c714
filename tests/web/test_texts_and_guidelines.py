"""Texts in their form, guidelines and remarks in a browser."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from helpers.services import bearer
from playwright.sync_api import Page, expect

from atgen_ray.annotation.human.round_tasks import TaskDraft
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
TEXT = f"""# Results

We see **gains** of $x^2$, see [the site](https://docs.example.org/a) ![plot](https://pics.example/a.png)
[bad](javascript:alert(3)) {MARKUP}

| a | b |
|---|---|
| 1 | 2 |

$$\\int_0^1 x\\,dx$$
"""
CHAT = json.dumps([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": MARKUP}])
CONTEXT = [("title", "On **sharing**"), ("record", '{"a": {"b": {"c": 1}}}')]


def open_desk(journal: Journal, texts: list[tuple[str, Any, int | None]], **keys: Any) -> HumanDesk:
    """A run with tasks of these inputs, what stands beside them, and the window of the model."""
    desk = HumanDesk(journal, 0, settle_seconds=600.0, **keys)
    desk.round().publish_tasks(
        [
            TaskDraft(f"e{n}", text, {"text": "d", "source": "m", "round": 0}, None, None, *more)
            for n, (text, *more) in enumerate(texts)
        ]
    )
    return desk


def check(page: Page, name: str) -> None:
    """No barrier and nothing beside the window, on the narrowest and the widest screen."""
    for width in (360, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert find_barriers(page) == []
        keep_screenshot(page, f"{name}-{width}")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_texts_are_shown_in_their_form_and_stay_inert(
    journal: Journal, come: Callable[..., Visitor]
) -> None:
    long = "word " * 200
    desk = open_desk(journal, [(TEXT, CONTEXT, None), (CHAT, None, None), (long, None, 500)])
    page = come("ann", "annotator", color_scheme="dark").open(f"/annotate/{desk.run}")
    shown = page.locator("#input")
    expect(shown.locator("h1")).to_have_text("Results")
    expect(shown.locator("math")).to_have_count(2)
    expect(shown.locator("a")).to_have_count(2)
    expect(shown).to_contain_text("(docs.example.org)")
    expect(shown).to_contain_text("<img src=x onerror")
    expect(shown.locator("img, script")).to_have_count(0)
    beside = page.locator("#context details.beside-input")
    expect(beside.locator("> summary")).to_have_text(["title", "record"])
    expect(beside.first.locator("strong")).to_have_text("sharing")
    check(page, "texts")

    page.keyboard.press("Shift+Tab")  # from the answer: by keyboard alone
    raw = shown.get_by_role("button", name="Text as it is")
    raw.focus()
    page.keyboard.press("Enter")
    expect(raw).to_have_attribute("aria-pressed", "true")
    expect(shown.locator("[data-as-is]")).to_contain_text("# Results")
    expect(shown.locator("[data-shown]")).to_be_hidden()

    page.get_by_label("Answer", exact=True).fill("- one\n- **two** " + MARKUP)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview li")).to_have_count(2)
    page.get_by_label("Answer", exact=True).fill("plain")
    expect(page.locator("#preview")).to_have_text("plain")

    page.keyboard.press("Alt+n")
    expect(shown.locator(".turn .who")).to_have_text(["user", "assistant"])
    page.keyboard.press("Alt+n")
    expect(shown.locator(".window")).to_contain_text("reads 500 of 1,000 characters")
    expect(shown.locator(".beyond")).to_have_text("word " * 100)


def test_guidelines_open_change_and_send_answers_back(
    journal: Journal, come: Callable[..., Visitor]
) -> None:
    examples = [{"input": "A *long* text", "output": "A label"}]
    guidelines = f"## A label\n\n- One **sentence**. {MARKUP}"
    texts: list[tuple[str, Any, int | None]] = [(f"text {n}", None, None) for n in range(3)]
    desk = open_desk(journal, texts, guidelines=guidelines, examples=examples)
    ann = come("ann", "annotator").open(f"/annotate/{desk.run}")
    panel = ann.locator("#guidelines")
    expect(panel.locator("h2")).to_have_text("A label")
    expect(panel.locator("strong")).to_have_text("sentence")
    expect(panel.get_by_text("Worked example 1")).to_be_visible()
    expect(panel).to_contain_text("Version 1, from the configuration")
    expect(ann.locator("#work")).to_be_visible()
    ann.keyboard.press("Alt+r")
    expect(ann.locator("#remark")).to_be_focused()
    ann.keyboard.type("Name the data set.")
    ann.keyboard.press("Control+Enter")
    expect(ann.locator("#notice")).to_have_text("The lead has your remark.")
    ann.get_by_label("Answer", exact=True).fill("It may work.")
    ann.keyboard.press("Control+Enter")
    expect(ann.locator("#standing")).to_contain_text("1 submitted")
    ann.reload()
    expect(ann.locator("#work")).to_be_visible()
    expect(panel).to_be_hidden()

    lead = come("lea", "admin").open(f"/annotate/{desk.run}/guidelines")
    check(lead, "guidelines")
    lead.get_by_role("button", name="Make it a rule").click()
    lead.get_by_role("button", name="Add to the guidelines").click()
    expect(lead.locator("#guidelines-page")).to_have_attribute("data-version", "2")
    expect(lead.locator("section").first).to_contain_text("Name the data set.")
    expect(lead.get_by_text("No remark waits.")).to_be_visible()
    ann.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(panel).to_be_visible()
    expect(panel).to_contain_text("Name the data set.")

    lead.get_by_label("Answers that contain").fill("may")
    lead.get_by_role("button", name="Search").click()
    expect(lead.locator("#send-back li")).to_have_count(1)
    check(lead, "earlier-answers")
    lead.get_by_role("button", name="Send the chosen ones back").click()
    expect(lead.locator("#earlier")).to_contain_text("0 tasks have answers")
    tasks = desk.queue("ann").history()
    assert [task["draft"] for task in tasks if task["note"]] == ["It may work."]

    lead.get_by_label("Text, in Markdown").fill("New **text**.")
    lead.get_by_label("What changed").fill("All of it")
    lead.get_by_role("button", name="Save as version 3").click()
    expect(lead.locator("section").first).to_contain_text("All of it")
    lead.locator("details.version > summary").first.click()
    expect(lead.locator("details.version").first.locator("del").first).to_be_visible()


def test_a_lead_sees_what_drafts_do(server: DeskServer, journal: Journal) -> None:
    desk = HumanDesk(journal, 50, drafts="experiment", settle_seconds=600.0)
    desk.publish_tasks()
    queue = desk.queue("ann")
    for number in range(50):
        (task,) = queue.lease()
        text = task["suggestion"]["text"] if task["suggestion"] else "something else"
        queue.answer(f"key-{number:04d}", task["id"], "submitted", text, 4.0)
    tokens = Tokens(journal.database)
    with httpx.Client(base_url=server.url) as client:
        admin = bearer(tokens.create("admin", "lea"))
        page = client.get(f"/annotate/{desk.run}/disputes", headers=admin)
        assert "Drafts pull answers towards themselves" in page.text
        found = client.get(f"/api/v1/runs/{desk.run}/tasks/drafts", headers=admin).json()
        assert {effect["name"] for effect in found["effects"]} >= {"distance", "seconds"}
        own = bearer(tokens.create("annotator", "ann"))
        for path in ("tasks/drafts", "remarks", "guidelines/2/earlier"):
            assert client.get(f"/api/v1/runs/{desk.run}/{path}", headers=own).status_code == 403
        other = HumanDesk(journal, 1).run
        refused = client.get(f"/api/v1/runs/{other}/tasks/drafts", headers=admin)
        assert refused.status_code == 409
