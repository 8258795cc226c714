"""What an annotator's page does after Submit and beside it: own answers that change, tasks that are
only looked at, two tabs, an ended session, keys of one's own, and where work waits.
"""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.browsing import Visitor, find_barriers, keep_screenshot, type_label, wait_for
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from playwright.sync_api import Page, expect

from atgen_ray.annotation.human.revision import reopen_tasks
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.events import STEP
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import assignments


class Office:
    """A run with its tasks up, and the browsers of its people."""

    def __init__(self, come: Callable[..., Visitor], server: DeskServer, journal: Journal) -> None:
        self.come, self.server, self.journal = come, server, journal
        self.tokens = Tokens(journal.database)

    def open(self, count: int, **settings: Any) -> HumanDesk:
        self.desk = HumanDesk(self.journal, count, settle_seconds=600.0, **settings)
        self.desk.publish_tasks()
        return self.desk

    def sit(self, name: str, **options: Any) -> Page:
        page = self.come(name, "annotator", **options).open(f"/annotate/{self.desk.run}")
        expect(page.locator("#work")).to_be_visible()
        return page

    def answers(self, name: str = "ann") -> dict[str, str]:
        history = self.desk.queue(name).history()
        return {task["id"]: task["text"] for task in history if task["state"] == "submitted"}

    def held(self) -> dict[str, list[str]]:
        """The tasks that each person has leased now."""
        here = (assignments.c.run == self.desk.run) & (assignments.c.state == "leased")
        with self.journal.database.reading() as connection:
            now = self.journal.database.clock(connection)
            query = sa.select(assignments.c.annotator, assignments.c.example_id)
            rows = connection.execute(query.where(here & (assignments.c.until > now))).all()
        found: dict[str, list[str]] = {}
        for name, id_ in sorted((row.annotator, row.example_id) for row in rows):
            found.setdefault(name, []).append(id_)
        return found


@pytest.fixture
def office(come: Callable[..., Visitor], server: DeskServer, journal: Journal) -> Office:
    return Office(come, server, journal)


def test_an_own_answer_is_changed_by_going_back_to_it_until_the_training(office: Office) -> None:
    desk = office.open(3)
    page = office.sit("ann")
    answer = page.locator("#answer")
    type_label(page, "first")
    page.keyboard.press("Alt+p")  # right after Submit
    expect(answer).to_have_value("first")
    expect(page.locator("#task-state")).to_have_text("submitted; you can change it")
    wait_for(page, lambda: office.answers() == {"e00": "first"})
    expect(answer).to_have_value("first")  # what came from the server meanwhile led nowhere else
    page.keyboard.press("End")
    page.keyboard.type(", and better")
    expect(page.locator("#saved")).to_have_text("Not submitted yet.")
    page.keyboard.press("Control+Enter")
    expect(answer).to_have_value("draft of e01")
    wait_for(page, lambda: office.answers() == {"e00": "first, and better"})
    page.reload()  # its own answers are still there
    expect(answer).to_have_value("draft of e01")
    page.keyboard.press("Alt+p")
    expect(answer).to_have_value("first, and better")
    page.keyboard.press("Alt+z")  # takes back what is on the screen
    expect(page.locator("#task-state")).to_have_text("")
    wait_for(page, lambda: office.answers() == {})
    type_label(page, "last")
    wait_for(page, lambda: office.answers() == {"e00": "last"})
    reopen_tasks(office.journal, desk.run, ["e00"], "root", "Name the river.")
    page.reload()
    expect(page.locator("#sent-back")).to_have_text("Sent back by root: Name the river.")
    type_label(page, "the Elbe")
    wait_for(page, lambda: office.answers() == {"e00": "the Elbe"})
    office.desk.config.annotator.settle_seconds = 0.0  # type: ignore[union-attr]
    desk.round().collect_labels()
    lease = office.journal.acquire(desk.run, ProcessIdentity("desk"), 600, takeover=True)
    office.journal.append(lease, STEP, 1, "annotation", {})
    page.reload()
    expect(answer).to_have_value("draft of e01")
    page.keyboard.press("Alt+p")
    expect(page.locator("#task-state")).to_have_text("submitted closed")
    expect(answer).not_to_be_editable()
    assert find_barriers(page) == []
    expect(page.locator("#notice")).to_be_empty(timeout=20_000)  # it goes by itself


def test_to_look_ahead_takes_nothing_and_to_leave_gives_back(office: Office) -> None:
    office.open(12)
    page = office.sit("ann")
    wait_for(page, lambda: office.held() == {"ann": ["e00", "e01", "e02"]})
    for _ in range(36):
        page.keyboard.press("Alt+n")
        page.wait_for_timeout(20)
    expect(page.locator("#notice")).to_have_text("There is no further open task.")
    expect(page.locator("#task-state")).to_have_text("looked at, not yours")
    expect(page.locator("#answer")).not_to_be_editable()
    assert find_barriers(page) == []
    assert office.held()["ann"] == ["e00", "e01", "e02"]
    page.keyboard.press("Alt+l")
    expect(page.locator("#answer")).to_be_focused()
    wait_for(page, lambda: office.held()["ann"] == ["e00", "e01", "e02", "e11"])
    page.goto("about:blank")
    wait_for(page, lambda: office.held() == {})
    bea = office.sit("bea")
    expect(bea.locator("#answer")).to_have_value("draft of e00")


def test_two_tabs_lose_no_text(office: Office) -> None:
    office.open(2)
    visitor = office.come("ann", "annotator")
    first = visitor.open(f"/annotate/{office.desk.run}")
    expect(first.locator("#answer")).to_be_focused()
    second = visitor.context.new_page()
    visitor.watch(second)
    second.goto(f"/annotate/{office.desk.run}")
    expect(second.locator("#elsewhere")).to_contain_text("open in another tab too")
    first.locator("#answer").fill("typed in the first")
    expect(second.locator("#answer")).to_have_value("typed in the first")
    second.locator("#answer").press("End")
    second.keyboard.type(" and in the second")
    expect(first.locator("#answer")).to_have_value("typed in the first and in the second")
    assert find_barriers(second) == []
    second.keyboard.press("Control+Enter")
    expect(first.locator("#task-state")).to_contain_text("submitted")
    wait_for(first, lambda: office.answers() == {"e00": "typed in the first and in the second"})
    second.close()
    expect(first.locator("#elsewhere")).to_be_hidden()


def test_what_was_typed_in_another_browser_is_kept_beside(office: Office) -> None:
    office.open(1)
    page = office.sit("ann")
    page.wait_for_load_state("networkidle")
    queue = office.desk.queue("ann")
    queue.save_draft("e00", "from the laptop", 2**40)
    page.keyboard.press("Control+a")
    page.keyboard.type("from the phone")
    expect(page.locator("#other")).to_be_visible()
    wait_for(page, lambda: queue.history()[0]["draft"] == "from the phone")
    page.get_by_role("button", name="Change to it").click()
    expect(page.locator("#answer")).to_have_value("from the laptop")
    page.get_by_role("button", name="Change to it").click()
    expect(page.locator("#answer")).to_have_value("from the phone")


def test_a_session_that_ended_is_taken_up_again_and_what_was_kept_is_sent(office: Office) -> None:
    office.open(2)
    visitor = office.come("ann", "annotator")
    page = visitor.open(f"/annotate/{office.desk.run}")
    expect(page.locator("#answer")).to_be_focused()
    assert visitor.token
    office.tokens.revoke(visitor.token.split("_")[1])
    type_label(page, "typed without a session")
    expect(page.locator("#signed-out")).to_be_visible()
    assert find_barriers(page) == []
    page.locator("#signed-out").get_by_role("button", name="Sign in").press("Enter")
    dialog = page.locator("#session")
    expect(dialog).to_be_visible()
    assert find_barriers(page) == []
    page.keyboard.type("atgen_no_token")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("This token is not accepted here.")
    page.locator("#session-token").fill(office.tokens.create("annotator", "ann"))
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    wait_for(page, lambda: office.answers() == {"e00": "typed without a session"})
    expect(page.locator("#saved")).to_have_text("Saved.")


def test_keys_are_chosen_in_the_browser_and_shown_on_the_buttons(office: Office) -> None:
    office.open(3)
    page = office.sit("ann")
    page.keyboard.press("Alt+h")
    change = page.get_by_role("button", name="Change the keys of Next")
    change.press("Enter")
    page.keyboard.press("Alt+p")
    expect(page.locator("[data-said]")).to_have_text("Alt+P is taken: Previous.")
    change.press("Enter")
    page.keyboard.press("F8")
    expect(page.locator("[data-said]")).to_have_text("F8 is chosen.")
    assert find_barriers(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("F8")
    expect(page.locator("#answer")).to_have_value("draft of e01")
    page.reload()
    expect(page.locator("[data-act=next]")).to_have_attribute("aria-keyshortcuts", "F8")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light"), (2560, "light")])
def test_menu_reason_and_difference_are_on_the_screen(
    office: Office, width: int, scheme: Any
) -> None:
    desk = office.open(2)
    page = office.sit("ann", viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.keyboard.press("Alt+c")
    page.keyboard.type("Rivers rise. ")
    bar = page.locator(".actions").bounding_box()
    shown = page.locator("#difference").bounding_box()
    assert bar is not None
    assert shown is not None
    assert shown["y"] + shown["height"] <= bar["y"] + 1
    sizes = [each.bounding_box() for each in page.locator(".actions > .row > *:visible").all()]
    assert len({box["y"] for box in sizes if box}) == 1  # one row
    assert all(box["height"] >= 44 for box in sizes if box)
    page.keyboard.press("Alt+m")
    menu = page.locator("#more > div")
    expect(menu.get_by_role("button", name="Flag for an admin")).to_be_focused()
    box = menu.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert find_barriers(page) == []
    keep_screenshot(page, f"annotate-menu-{width}")
    page.keyboard.press("Escape")
    assert desk.run in page.url


def test_the_first_page_says_where_work_waits(office: Office) -> None:
    desk = office.open(4)
    desk.queue("cid").lease(1)
    page = office.come("cid", "annotator").open("/")
    row = page.locator("#waiting li").filter(has_text=desk.run)
    expect(row).to_contain_text("1 in hand, 3 open")
    assert find_barriers(page) == []
    row.get_by_role("link").click()
    expect(page.locator("#answer")).to_have_value("draft of e00")
