"""A lead at the task list, by keyboard alone: finds tasks, acts on many of them, undoes it, reviews
answers, and whoever gave one sees what is to be changed.
"""

from collections.abc import Callable
from typing import Any

import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from playwright.sync_api import Page, expect

from atgen_ray.annotation.human.lead.task_filter import TaskFilter
from atgen_ray.annotation.human.lead.task_list import TaskList
from atgen_ray.store.journal import Journal

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
COUNT = 60  # more than a page


@pytest.fixture
def desk(journal: Journal) -> HumanDesk:
    """A run of which ann has answered three tasks and flagged one."""
    desk = HumanDesk(journal, COUNT, settle_seconds=600.0)
    desk.texts["e00"] = f"{MARKUP} النص"
    desk.publish_tasks()
    queue = desk.queue("ann")
    for at in range(4):
        (task,) = queue.lease(1)
        verdict: Any = "flagged" if at == 3 else "submitted"
        queue.answer(f"key-{desk.run}-{at}", task["id"], verdict, f"answer {at} {MARKUP}", 3.0)
    return desk


def type_into(page: Page, label: str, text: str) -> None:
    page.get_by_label(label).focus()
    page.keyboard.type(text)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")


def test_a_lead_acts_on_many_tasks_by_keyboard(
    come: Callable[..., Visitor], desk: HumanDesk, server: DeskServer, journal: Journal
) -> None:
    page = come("root").open(f"/annotate/{desk.run}/tasks")
    listing = TaskList(journal, str(server.storage), desk.run)
    expect(page.locator("#count")).to_have_text("60 tasks (56 open, 3 answered, 1 disputed)")
    assert page.locator("main").locator("img, script").count() == 0
    for key in "jjjjjxjx":  # the fifth and the sixth
        page.keyboard.press(key)
    expect(page.locator("#selected")).to_have_text("2 tasks selected")
    press(page, "Label next")
    expect(page.locator("#notice")).to_have_text("2 tasks changed.")
    first = listing.read_page(TaskFilter(), None, 2)["tasks"]
    assert [task["id"] for task in first] == ["e04", "e05"]
    expect(page.locator("tr[data-id]").first).to_have_attribute("data-id", "e04")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("2 tasks as before.")
    expect(page.locator("tr[data-id]").first).to_have_attribute("data-id", "e00")
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("TEXT 5")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks?q=TEXT+5")
    expect(page.locator("#count")).to_have_text("11 tasks")
    page.keyboard.press("a")
    expect(page.locator("#everything")).to_be_hidden()
    page.goto(f"/annotate/{desk.run}/tasks?state=open")
    expect(page.locator("#count")).to_have_text("56 tasks")
    page.keyboard.press("a")
    press(page, "Select all 56 tasks that match")
    press(page, "Drop …")
    type_into(page, "Reason", "No English.")
    press(page, "Drop: 56 tasks")
    expect(page.locator("#notice")).to_have_text("56 tasks changed.")
    assert listing.count(TaskFilter()) == {"answered": 3, "disputed": 1, "dropped": 56}
    expect(page.locator("#actions")).to_contain_text("56 tasks dropped: No English.")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("56 tasks")
    assert listing.count(TaskFilter(state=["dropped"])) == {}
    page.keyboard.press("j")
    page.keyboard.press("x")
    press(page, "Keep for …")
    page.get_by_role("checkbox", name="root").focus()
    page.keyboard.press("Space")
    press(page, "Keep for: 1 task")
    expect(page.locator("#actions")).to_contain_text("kept for root")
    assert listing.read_task("e04")["assigned"] == ["root"]


def test_answers_are_reviewed_one_after_the_other(
    come: Callable[..., Visitor], desk: HumanDesk, server: DeskServer, journal: Journal
) -> None:
    listing = TaskList(journal, str(server.storage), desk.run)
    page = come("root").open(f"/annotate/{desk.run}/tasks")
    page.get_by_role("link", name="To review, at random").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("3 tasks")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks/e00?**")
    assert find_barriers(page) == []
    page.keyboard.press("a")
    page.wait_for_url("**/tasks/e01?**")
    page.keyboard.press("c")
    page.keyboard.press("Control+a")
    page.keyboard.type("the right label")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/tasks/e02?**")
    page.keyboard.press("b")
    page.keyboard.type("Name the outcome.")
    keep_screenshot(page, "task-review")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer-card")).to_contain_text("sent back")
    expect(page.get_by_text("root: returned the answer of ann (Name the outcome.)")).to_be_visible()
    assert listing.read_task("e01")["decision"]["text"] == "the right label"
    assert listing.read_task("e00")["reviews"][0]["drawn"] is True
    page.keyboard.press("u")
    page.wait_for_url("**/tasks?**")
    expect(page.get_by_role("region", name="Reviews")).to_contain_text("33 % (6 to 79 %, of 3)")
    ann = come("ann", "annotator").open(f"/annotate/{desk.run}/tasks?review=returned")
    expect(ann.locator("#count")).to_have_text("1 task")
    assert find_barriers(ann) == []
    ann.goto(f"/annotate/{desk.run}")
    expect(ann.locator("#sent-back")).to_have_text("Sent back by root: Name the outcome.")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light"), (2560, "dark")])
def test_the_list_fits_from_phones_to_walls(
    come: Callable[..., Visitor], desk: HumanDesk, width: int, scheme: Any
) -> None:
    size = {"width": width, "height": 800}
    page = come("root", viewport=size, color_scheme=scheme).open(f"/annotate/{desk.run}/tasks")
    page.locator("summary", has_text="More filters").click()
    page.keyboard.press("a")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert find_barriers(page) == []
    keep_screenshot(page, f"tasks-{width}")
    press(page, "Keep for …")
    assert find_barriers(page) == []
