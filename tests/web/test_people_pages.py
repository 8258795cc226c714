"""People and runs in browsers, without Ray: an invitation is made and accepted, work and payments
are looked at, and runs are found, renamed, archived and removed.
"""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from helpers.report_runs import MadeUp, write_run
from playwright.sync_api import expect

from atgen_ray.core.records import Annotation
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity

MARKUP = "<img src=x onerror=alert(1)>"


def add_run(
    journal: Journal, storage: Path, status: str = "finished", rounds: int = 2
) -> HumanDesk:
    """A run with answers of `ann`, scores, and labels of a round that has not ended."""
    desk = HumanDesk(journal, 4, guidelines=f"One sentence. {MARKUP}", price_per_label=0.15)
    desk.publish_tasks()
    for task in desk.queue("ann").lease(2):
        desk.queue("ann").answer(uuid4().hex, task["id"], "submitted", f"label {MARKUP}", 9.0)
    desk.round().collect_labels()
    write_run(str(storage), desk.run, MadeUp(rounds=rounds, price=0.0))
    lease = journal.acquire(desk.run, ProcessIdentity("c", host="elsewhere"), 0, takeover=True)
    labels = [Annotation(f"x{number}", "text", "m", 0.1) for number in range(5)]
    journal.record_annotations(lease, 3, labels)
    journal.append(lease, "step", 2, "evaluation", {"rows": 4}, 1.5)
    journal.append(lease, "warning", payload={"warning": f"odd {MARKUP}"})
    journal.set_status(lease, status)  # type: ignore[arg-type]
    lease.release()
    return desk


def test_a_lead_invites_and_a_person_comes_in(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    run = add_run(journal, server.storage).run
    page = come().open("/people")
    assert find_barriers(page) == []
    page.get_by_label("Runs").select_option(run)
    page.get_by_label("Groups", exact=True).fill("medics, night shift")
    page.get_by_role("button", name="Make a link").press("Enter")
    expect(page.locator("#link")).to_be_focused()
    link = page.locator("#link").input_value()
    assert link.startswith(f"{server.url}/invite?key=")
    guest = come(None).page
    guest.goto(link)
    assert find_barriers(guest) == []
    keep_screenshot(guest, "invitation")
    guest.keyboard.type("ann")
    guest.keyboard.press("Enter")
    expect(guest.get_by_role("alert")).to_contain_text("somebody has already")
    guest.get_by_label("Your name").fill(f"Bea {MARKUP}")
    guest.keyboard.press("Enter")
    expect(guest.get_by_label("Your token")).to_have_value(re.compile("^atgen_"))
    assert find_barriers(guest) == []
    guest.get_by_role("link", name="Start").click()
    guest.wait_for_url(f"**/annotate/{run}")
    guest.goto("/")
    expect(guest.locator("tbody tr")).to_have_count(1)
    expect(guest.locator("thead")).not_to_contain_text("Dollars")
    lead = come()
    page = lead.open("/people")
    row = page.locator("tr", has_text="Bea <img")
    expect(row).to_contain_text(run)
    expect(row.locator(".groups")).to_have_value("medics, night shift")
    row.locator(".groups").fill("medics")
    row.locator(".groups").press("Tab")
    expect(page.locator("#notice")).to_contain_text("is in medics")
    keep_screenshot(page, "people")
    page.remove_listener("dialog", lead._refuse_dialog)
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Revoke").click()
    expect(page.locator("tr", has_text="Bea <img")).to_contain_text("revoked")
    guest.goto("/")
    guest.wait_for_url("**/sign-in*")
    page.get_by_role("link", name="Audit log").click()
    row = page.locator("tr", has_text="people/revoke").first
    expect(row).to_contain_text("200")
    expect(page.locator("tr", has_text="accept invitation")).to_contain_text("Bea <img")
    assert find_barriers(page) == []
    page.get_by_label("Action has").fill("sign in")
    page.keyboard.press("Enter")
    expect(page.locator("tr", has_text="people/revoke")).to_have_count(0)


def test_who_did_what_is_seen_and_paid(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    run = add_run(journal, server.storage).run
    page = come().open(f"/runs/{run}")
    page.get_by_role("link", name="People").last.click()
    expect(page.get_by_role("heading", name="Who did what")).to_be_visible()
    assert find_barriers(page) == []
    expect(page.get_by_role("region", name="Payments").locator("tbody tr").first).to_have_text(
        re.compile("ann.*2.*18 s.*2.*0.15.*0.30", re.S)
    )
    keep_screenshot(page, "who-did-what")
    with page.expect_download() as download:
        page.get_by_text("Payments as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines == ["person,answers,seconds,accepted,price,dollars", "ann,2,18.0,2,0.15,0.3"]


def test_the_list_and_the_page_of_a_run_tell_the_same_numbers(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    """Also in the middle of a round."""
    run = add_run(journal, server.storage).run
    total = journal.total(run)
    visitor = come()
    row = visitor.open("/").locator(f"tr[data-also='{run}']")
    expect(row).to_contain_text(f"{total.labels}$0.80")
    page = visitor.open(f"/runs/{run}")
    facts = page.locator("#state .facts")
    expect(facts).to_contain_text(f"Labels{total.labels}of 60 in the pool")
    expect(facts).to_contain_text("Dollars$0.80")
    budget = page.locator("#budget .facts")
    expect(budget).to_contain_text(f"Labels{total.labels}")
    expect(budget).to_contain_text("Paid$0.80")


def test_runs_are_found_and_put_in_order(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    names = [add_run(journal, server.storage, rounds=rounds).run for rounds in (3, 1)]
    page = come().open("/")
    shown = page.locator("tbody tr:visible")
    page.get_by_label("Find runs").fill(f"finished {names[0]}")
    expect(shown).to_have_count(1)
    page.get_by_label("Find runs").fill("nothing like it")
    expect(page.locator("#nothing")).to_be_visible()
    page.get_by_label("Find runs").fill("")
    page.get_by_role("button", name="Score").press("Enter")
    column = page.get_by_role("columnheader", name="Score")
    expect(column).to_have_attribute("aria-sort", "descending")
    order = [row.get_attribute("data-also") for row in shown.all()]
    assert order.index(names[0]) < order.index(names[1])
    page.get_by_role("button", name="Score").press("Enter")
    expect(column).to_have_attribute("aria-sort", "ascending")
    order = [row.get_attribute("data-also") for row in shown.all()]
    assert order.index(names[0]) > order.index(names[1])
    assert find_barriers(page) == []


def test_a_run_is_renamed_archived_and_removed(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    run = add_run(journal, server.storage).run
    visitor = come()
    page = visitor.open(f"/runs/{run}")
    page.get_by_label("Title").fill(f"Second try {MARKUP}")
    page.get_by_role("button", name="Save title").click()
    expect(page.locator("h1")).to_have_text(f"Second try {MARKUP} {run}")
    page.get_by_role("button", name="Archive").click()
    expect(page.locator(".status")).to_have_text("finished, archived")
    assert find_barriers(visitor.settle()) == []
    page = visitor.open("/")
    expect(page.locator(f"tr[data-also='{run}']")).to_have_count(0)
    page.get_by_text("Show 1 archived run").click()
    expect(page.locator(f"tr[data-also='{run}']")).to_contain_text("Second try <img")
    page = visitor.open(f"/runs/{run}")
    assert page.get_by_role("link", name="Copy").get_attribute("href") == f"/new?from={run}"
    page.get_by_label("Remove for ever").fill("another")
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#notice")).to_contain_text("expected the name of the run")
    page.get_by_label("Remove for ever").fill(run)
    page.get_by_role("button", name="Remove").press("Enter")
    page.wait_for_url(server.url + "/")
    assert not journal.has_run(run)
    assert not (server.storage / "runs" / run).exists()


def test_the_page_of_a_run_opens_part_by_part(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    run = add_run(journal, server.storage).run
    visitor = come()
    page = visitor.page
    page.goto(f"/runs/{run}")
    plot = page.locator("#curves svg.plot").first
    expect(plot).to_be_visible()
    assert page.evaluate("document.documentElement.scrollHeight") < 2200
    plot.focus()
    page.keyboard.press("ArrowRight")
    value = page.locator("#curves .value").first
    expect(value).to_have_text(re.compile(r"^0 labels: 0\.070 \(0\.050 to 0\.100\)$"))
    page.keyboard.press("End")
    expect(value).to_have_text(re.compile("^8 labels: "))
    plot.locator(".point").first.hover()
    expect(value).to_have_text(re.compile("^0 labels: "))
    page.locator("nav.contents").get_by_text("Log").press("Enter")
    log = page.locator("#log")
    expect(log).to_have_attribute("open", "")
    expect(log.locator("tbody tr").first).to_contain_text(f"warning: odd {MARKUP}")
    page.goto("/")
    page.goto(f"/runs/{run}")
    expect(log).to_have_attribute("open", "")  # it was open before
    log.scroll_into_view_if_needed()  # parts are fetched when they are about to be seen
    expect(log.locator("tbody tr").first).to_be_visible()
    keep_screenshot(page, "run-in-parts")


def test_an_interrupted_run_says_what_to_do(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer
) -> None:
    run = add_run(journal, server.storage, "running").run
    visitor = come()
    row = visitor.open("/").locator(f"tr[data-also='{run}']")
    expect(row).to_contain_text("interruptedResume it on its page.")
    page = visitor.open(f"/runs/{run}")
    expect(page.locator("#state .note").first).to_contain_text("Resume goes on from there")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert find_barriers(page) == []
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".status")).to_have_text("stopped")
    assert journal.run(run).status == "stopped"


@pytest.mark.parametrize("width", [360, 2560])
def test_pages_of_people_fit_narrow_and_wide_windows(
    come: Callable[..., Visitor], journal: Journal, server: DeskServer, width: int
) -> None:
    run = add_run(journal, server.storage).run
    visitor = come(viewport={"width": width, "height": 800}, color_scheme="dark")
    for path in ("/", "/people", f"/runs/{run}/people", f"/runs/{run}"):
        page = visitor.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert find_barriers(page) == [], path
