"""An admin settles disputes by keyboard alone: differences, a third opinion, undo, many at once."""

from collections.abc import Callable
from pathlib import Path

from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from playwright.sync_api import expect

from atgen_ray.annotation.human.lead.adjudication import count_disputes
from atgen_ray.store.journal import Journal

MARKUP = "<img src=x onerror=alert(1)>"


def disagree(storage: Path) -> HumanDesk:
    """A run of 25 tasks on whose answers two people disagree."""
    desk = HumanDesk(
        Journal(f"sqlite:///{storage}/atgen.db"),
        25,
        overlap=2,
        settle_seconds=600.0,
        agreement="edit",
        adjudicate_below=0.99,
    )
    desk.publish_tasks()
    for who, text in (("ann", "the river rose by a metre"), ("bea", f"the river fell {MARKUP}")):
        for _ in range(2):
            for task in desk.queue(who).lease(20):
                desk.queue(who).answer(f"{who}-{task['id']}", task["id"], "submitted", text)
    return desk


def test_disputes_are_settled_by_keyboard_alone(
    come: Callable[..., Visitor], server: DeskServer
) -> None:
    desk = disagree(server.storage)
    visitor = come(viewport={"width": 360, "height": 800}, color_scheme="dark")
    page = visitor.open(f"/annotate/{desk.run}/disputes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first = page.locator("[data-id='e00']")
    label = first.locator("textarea")
    expect(label).to_have_value("")  # nobody's answer is preferred
    assert page.locator("main img").count() == 0
    compare = first.get_by_role("button", name="Mark the differences")
    compare.focus()
    page.keyboard.press("Enter")
    expect(first.locator("mark", has_text="fell")).to_be_visible()
    expect(first.locator("mark", has_text="rose")).to_be_visible()
    assert find_barriers(page) == []
    page.keyboard.press("Control+Enter")
    expect(page.locator("#notice")).to_contain_text("The label is empty")
    page.keyboard.press("Alt+1")
    expect(label).not_to_have_value("")
    page.keyboard.press("Control+Enter")
    expect(first).to_contain_text("Labelled.")
    expect(page.locator("[data-id='e01'] textarea")).to_be_focused()
    first.get_by_role("button", name="Undo").focus()
    page.keyboard.press("Enter")
    expect(label).to_be_focused()
    page.keyboard.press("Alt+n")
    second = page.locator("[data-id='e01']")
    expect(second.locator("textarea")).to_be_focused()
    second.get_by_role("button", name="Ask another person").focus()
    page.keyboard.press("Enter")
    expect(second).to_contain_text("Another person is asked.")
    assert [task["id"] for task in desk.queue("cid").lease(5)] == ["e01"]
    keep_screenshot(page, "disputes-360")

    assert page.locator("[data-id]").count() == 20
    page.get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/disputes?page=2")
    assert page.locator("[data-id]").count() == 4
    page.get_by_label("Label disputes whose answers agree by at least").fill("0.2")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("24 tasks labelled.")
    expect(page.locator("#none")).to_be_visible()
    assert count_disputes(desk.journal, desk.run) == 0
    assert find_barriers(page) == []


def test_the_quiz_explains_each_answer_and_then_the_tasks_follow(
    come: Callable[..., Visitor], server: DeskServer, tmp_path: Path
) -> None:
    file = tmp_path / "gold.csv"
    file.write_text(f"input,text,explanation\nIs it wet?,yes,{MARKUP} rain is wet\n")
    desk = HumanDesk(
        Journal(f"sqlite:///{server.storage}/atgen.db"),
        2,
        gold={"file": str(file), "share": 0.0, "quiz": 1},
        drafts="off",
    )
    desk.publish_tasks()
    visitor = come(viewport={"width": 360, "height": 800})
    page = visitor.open(f"/annotate/{desk.run}")
    expect(page.locator("#quiz-state")).to_contain_text("One question comes before the tasks")
    expect(page.locator("#input")).to_contain_text("Is it wet?")
    page.locator("#answer").fill("no")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#quiz-verdict")).to_have_text("The last answer is not right.")
    expect(page.locator("#quiz-right li")).to_have_text("yes")
    expect(page.locator("#quiz-why")).to_have_text(f"{MARKUP} rain is wet")
    expect(page.locator("#input")).to_contain_text("text 0")
    assert page.locator("main img").count() == 0
    assert find_barriers(page) == []
    keep_screenshot(page, "quiz-360")
    page.get_by_role("button", name="Close", exact=True).click()
    page.reload()
    expect(page.locator("#input")).to_contain_text("text 0")
    expect(page.locator("#quiz")).to_be_hidden()
