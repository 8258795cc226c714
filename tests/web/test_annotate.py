"""People label in browsers: by keyboard, together, through dead servers and networks; an admin
settles disputes.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot, type_label, wait_for
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from playwright.sync_api import APIResponse, Page, Route, expect

from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class People:
    """A run with its tasks up, and people who come to label it."""

    def __init__(self, come: Callable[..., Visitor], server: DeskServer, journal: Journal) -> None:
        self.come, self.server, self.journal = come, server, journal

    def open(self, count: int = 3, markup: bool = False, **settings: Any) -> HumanDesk:
        defaults: dict[str, Any] = {
            "guidelines": f"Write one sentence. {MARKUP if markup else ''}",
            "settle_seconds": 600.0,
        }
        self.desk = HumanDesk(self.journal, count, **defaults | settings)
        if markup:
            self.desk.texts = {id_: f"{MARKUP} {text}" for id_, text in self.desk.texts.items()}
        self.desk.publish_tasks()
        return self.desk

    def sit(self, name: str, role: str = "annotator", **options: Any) -> Page:
        """Somebody at the page, with the first task before them."""
        page = self.come(name, role, **options).open(f"/annotate/{self.desk.run}")
        expect(page.locator("#work")).to_be_visible()
        return page

    def labels(self) -> dict[str, tuple[str, str]]:
        """Text and annotator of each example, as the run would take them now."""
        answered = {}
        for name in ("ann", "bea"):
            for task in self.desk.queue(name).history():
                if task["state"] == "submitted":
                    answered[task["id"]] = (task["text"], name)
        return answered


@pytest.fixture
def people(come: Callable[..., Visitor], server: DeskServer, journal: Journal) -> People:
    return People(come, server, journal)


def test_a_batch_is_labelled_by_keyboard_alone(people: People) -> None:
    people.open(5)
    page = people.sit("ann")
    answer = page.locator("#answer")
    expect(answer).to_be_focused()
    expect(answer).to_have_value("draft of e00")
    expect(page.locator("#source")).to_have_text("Draft by m")
    page.keyboard.press("Alt+c")
    page.keyboard.press("Control+a")
    page.keyboard.type("label of e00")
    expect(page.locator("#difference del")).to_have_text("draft")
    expect(page.locator("#difference ins")).to_have_text("label")
    page.keyboard.press("Alt+g")
    expect(page.locator("#guidelines")).to_contain_text("Write one sentence.")
    page.keyboard.press("Alt+h")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    expect(page.locator("#notice")).to_have_text("Draft saved.")
    page.keyboard.press("Control+Enter")
    expect(answer).to_have_value("draft of e01")
    page.keyboard.press("Alt+k")
    page.keyboard.type("cannot tell")
    page.keyboard.press("Control+Enter")
    expect(answer).to_have_value("draft of e02")
    page.keyboard.press("Alt+x")
    page.keyboard.type("wrong language")
    page.keyboard.press("Control+Enter")
    expect(answer).to_have_value("draft of e03")
    page.keyboard.press("Alt+n")
    expect(answer).to_have_value("draft of e04")
    page.keyboard.press("Alt+p")
    expect(answer).to_have_value("draft of e03")
    type_label(page, "label of e03")
    expect(answer).to_have_value("draft of e04")
    type_label(page, "label of e04")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#standing")).to_contain_text("You: 3 submitted, 1 skipped, 1 flagged")
    assert people.labels() == {id_: (f"label of {id_}", "ann") for id_ in ("e00", "e03", "e04")}


def test_what_the_server_tells_late_opens_no_answered_task(people: People) -> None:
    """It was asked for tasks before it had the label, and its reply comes after the label was
    confirmed.
    """
    people.open(2)
    page = people.sit("ann")
    expect(page.locator("#standing")).to_contain_text("0 of 2 done")
    submits: list[Route] = []
    leases: list[tuple[Route, APIResponse]] = []
    page.route("**/e00/submit", lambda route: submits.append(route))
    page.route("**/tasks/lease", lambda route: leases.append((route, route.fetch())))
    type_label(page, "label of e00")
    while not (submits and leases):
        page.wait_for_timeout(50)  # in which the handlers are called
    page.unroute("**/tasks/lease")
    # It was asked for other tasks than the one whose answer was on its way.
    assert "e00" not in [task["id"] for _, reply in leases for task in reply.json()["tasks"]]
    submits[0].continue_()
    expect(page.locator("#standing")).to_contain_text("You: 1 submitted")
    for route, reply in leases:
        route.fulfill(response=reply)
    expect(page.locator("#answer")).to_have_value("draft of e01")
    type_label(page, "label of e01")
    expect(page.locator("#empty")).to_be_visible()


def test_a_step_forward_waits_for_tasks_that_are_on_their_way(people: People) -> None:
    """They are leased to the person, so they are not among the open tasks that are looked for."""
    people.open(4)
    page = people.sit("ann")
    answer = page.locator("#answer")
    expect(answer).to_have_value("draft of e00")
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/tasks/lease", lambda route: held.append((route, route.fetch())))
    type_label(page, "label of e00")
    expect(answer).to_have_value("draft of e01")
    while not held:
        page.wait_for_timeout(50)  # in which the handlers are called
    page.keyboard.press("Alt+n")
    expect(answer).to_have_value("draft of e02")
    page.keyboard.press("Alt+n")
    page.wait_for_timeout(300)  # what would be looked for has been answered

    def is_next() -> bool:
        while held:
            route, reply = held.pop(0)
            route.fulfill(response=reply)
        return answer.input_value() == "draft of e03"

    wait_for(page, is_next)


def test_two_browsers_share_one_queue(people: People) -> None:
    people.open(6)
    pages = [people.sit("ann"), people.sit("bea")]

    def all_are_labelled() -> bool:
        for page in pages:
            if page.locator(
                "[data-act=submit]"
            ).is_enabled():  # a task is before them, and stays until it is answered
                type_label(page, f"by {page.locator('#annotate').get_attribute('data-person')}")
        return len(people.labels()) == 6

    wait_for(pages[0], all_are_labelled)
    assert {text for text, name in people.labels().values() if name == "ann"} == {"by ann"}
    assert {text for text, name in people.labels().values() if name == "bea"} == {"by bea"}
    assert len(people.desk.queue("ann").history()) + len(people.desk.queue("bea").history()) == 6


def test_the_server_dies_in_mid_typing_and_nothing_is_lost(
    people: People, server: DeskServer
) -> None:
    people.open(3)
    page = people.sit("ann")
    page.keyboard.press("Control+a")
    page.keyboard.type("half of a")
    server.kill()
    page.keyboard.type(" sentence")
    expect(page.locator("#saved")).to_contain_text("The server cannot be reached")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer")).to_have_value("draft of e01")  # one task lies ahead
    expect(page.locator("#saved")).to_contain_text("1 answer waits to be sent.")
    page.keyboard.press("Control+a")
    page.keyboard.type("not finished")
    server.start()
    expect(page.locator("#saved")).to_have_text("Saved.", timeout=30_000)
    assert people.labels() == {"e00": ("half of a sentence", "ann")}
    page.reload()
    expect(page.locator("#answer")).to_have_value("not finished")


def test_what_was_typed_while_the_server_was_dead_outlives_a_reload(
    people: People, server: DeskServer
) -> None:
    people.open(2)
    page = people.sit("ann")
    server.kill()
    page.keyboard.press("Control+a")
    page.keyboard.type("typed for nobody")
    server.start()
    page.reload()
    expect(page.locator("#answer")).to_have_value("typed for nobody")
    wait_for(page, lambda: people.desk.queue("ann").history()[0]["draft"] == "typed for nobody")


def test_the_network_goes_away_and_comes_back(people: People) -> None:
    people.open(2)
    page = people.sit("ann")
    expect(page.locator("#standing")).to_contain_text("0 of 2 done")  # both tasks are there
    page.context.set_offline(True)
    type_label(page, "first, offline")
    expect(page.locator("#answer")).to_have_value("draft of e01")
    type_label(page, "second, offline")
    expect(page.locator("#saved")).to_contain_text("2 answers wait to be sent.")
    assert people.labels() == {}
    page.context.set_offline(False)
    expect(page.locator("#standing")).to_contain_text("You: 2 submitted", timeout=30_000)
    assert people.labels() == {"e00": ("first, offline", "ann"), "e01": ("second, offline", "ann")}


def test_a_lost_receipt_does_not_count_twice(people: People) -> None:
    """The answer arrives, its receipt does not: the same key comes again."""
    people.open(1)
    page = people.sit("ann")
    keys: list[str] = []

    def lose(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        answer = route.fetch()
        if len(keys) == 1:
            route.abort()
        else:
            route.fulfill(response=answer)

    page.route(re.compile("/submit$"), lose)
    type_label(page, "said once")
    expect(page.locator("#standing")).to_contain_text("You: 1 submitted", timeout=30_000)
    wait_for(page, lambda: len(keys) == 2)
    expect(page.locator("#saved")).not_to_contain_text("waits")  # the second receipt has come
    assert keys[0] == keys[1]
    assert people.labels() == {"e00": ("said once", "ann")}


def test_the_last_answer_is_taken_back(people: People) -> None:
    people.open(2)
    page = people.sit("ann")
    type_label(page, "too quick")
    expect(page.locator("#answer")).to_have_value("draft of e01")
    page.keyboard.press("Alt+z")
    expect(page.locator("#answer")).to_have_value("too quick")
    expect(page.locator("#standing")).to_contain_text("You: 0 submitted")
    type_label(page, "just right")
    wait_for(page, lambda: people.labels() == {"e00": ("just right", "ann")})


def test_a_draft_is_hidden_until_the_first_edit_where_asked_for(people: People) -> None:
    people.open(1, drafts="blind")
    page = people.sit("ann")
    expect(page.locator("#answer")).to_have_value("")
    expect(page.locator("#source")).to_contain_text("once you have begun")
    assert "draft of e00" not in page.content()
    page.keyboard.type("mine")
    expect(page.locator("#source")).to_have_text("Draft by m")
    expect(page.locator("#answer")).to_have_value("mine")


def test_an_admin_settles_what_people_disagree_on(people: People) -> None:
    people.open(1, overlap=2)
    for name, text in (("ann", "rivers rise"), ("bea", "quite another thing")):
        page = people.sit(name)
        type_label(page, text)
        expect(page.locator("#standing")).to_contain_text("You: 1 submitted")
    page = people.come("root", "admin").open(f"/annotate/{people.desk.run}/disputes")
    shown = page.locator("[data-text]").all_inner_texts()
    assert {*shown[:2]} == {"rivers rise", "quite another thing"}
    assert shown[2:] == ["draft of e00"]
    assert find_barriers(page) == []
    keep_screenshot(page, "disputes")
    page.get_by_role("button", name="Start from this").nth(1).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("the river rose")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#none")).to_be_visible()
    people.desk.config.annotator.settle_seconds = 0.0  # type: ignore[union-attr]
    (label,), _ = people.desk.round().collect_labels()
    assert (label.text, label.annotator) == ("the river rose", "human/root")


def test_an_admin_finds_what_was_skipped_and_gives_it_back_or_drops_it(people: People) -> None:
    desk = people.open(2, settle_seconds=0.0)
    ann = desk.queue("ann")
    for task in ann.lease(2):
        ann.answer(f"skip-{task['id']}", task["id"], "skipped", f"{MARKUP} no")
    visitor = people.come("root", "admin")
    page = visitor.open(f"/runs/{desk.run}")
    page.get_by_role("link", name="2 examples").click()
    page.wait_for_url(f"**/annotate/{desk.run}/disputes")
    first = page.locator("[data-id='e00']")
    expect(first).to_contain_text("skipped, open for others, round 1")
    expect(first).to_contain_text(f"{MARKUP} no")
    assert find_barriers(page) == []
    first.get_by_role("button", name="Give it back").click()
    expect(first).to_contain_text("Given back.")
    page.locator("[data-id='e01']").get_by_role("button", name="No label").click()
    expect(page.locator("#none")).to_be_visible()
    assert [task["id"] for task in ann.lease(2)] == ["e00"]
    labels, (letter,) = desk.round().collect_labels()
    assert (labels, letter.id, letter.reason) == (
        [],
        "e01",
        f"root dropped it (no reason given); ann skipped it ({MARKUP} no)",
    )
    page = visitor.open(f"/runs/{desk.run}")
    expect(page.locator("#state")).to_contain_text("Annotate")
    expect(page.get_by_role("link", name="examples")).to_have_count(0)


def test_an_admin_brings_labels_that_exist_already(people: People, tmp_path: Path) -> None:
    desk = people.open(3)
    pool = [{"id": id_, "text": text} for id_, text in desk.texts.items()]
    RunFolder(str(people.server.storage), desk.run).write_table(
        "pool.parquet", pa.Table.from_pylist(pool)
    )
    page = people.come("root", "admin").open(f"/annotate/{desk.run}/disputes")
    file = tmp_path / "My labels.csv"
    file.write_text(f"id,text\ne00,known\n{MARKUP.replace(',', '')},x\n")
    page.get_by_label("File of labels").set_input_files(file)
    expect(page.locator("#imported")).to_have_text("1 imported, 0 known before, 1 refused.")
    expect(page.locator("#refused li")).to_have_text("Row 2: the pool has no such example.")
    assert find_barriers(page) == []
    file.write_text("id,txt\ne00,known\n")
    page.get_by_label("File of labels").set_input_files(file)
    expect(page.locator("#imported")).to_have_text(
        "the file is 'My labels.csv', whose columns are id, txt: expected a mapping as text=txt"
    )
    desk.config.annotator.settle_seconds = 0.0  # type: ignore[union-attr]
    taken, _ = desk.round().collect_labels()
    assert [(label.id, label.text, label.dollars) for label in taken] == [("e00", "known", 0.0)]


def test_markup_in_data_stays_text_and_the_page_is_accessible(people: People) -> None:
    people.open(2, markup=True)
    for role in ("annotator", "admin"):
        page = people.sit("ann", role)
        page.keyboard.press("Alt+g")
        page.keyboard.press("Alt+c")
        expect(page.locator("#input")).to_contain_text("<img src=x onerror")
        expect(page.locator("#guidelines")).to_contain_text("<script>")
        assert page.locator("main").locator("img, script").count() == 0
        page.keyboard.press("Control+a")
        page.keyboard.type(MARKUP)
        expect(page.locator("#difference ins").first).to_be_visible()
        assert find_barriers(page) == []
    keep_screenshot(page, "annotate")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light"), (2560, "dark")])
def test_the_page_fits_from_phones_to_walls(people: People, width: int, scheme: Any) -> None:
    people.open(2)
    page = people.sit("ann", viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("button", name="Submit")).to_be_in_viewport()
    assert find_barriers(page) == []
    keep_screenshot(page, f"annotate-{width}")


def test_the_page_is_small(people: People, server: DeskServer) -> None:
    """Everything that it loads, as it is sent, stays under 100 kB."""
    people.open(1)
    visitor = people.come("ann", "annotator")
    sizes: list[int] = []
    visitor.page.on("response", lambda response: sizes.append(len(response.body())))
    visitor.open(f"/annotate/{people.desk.run}")
    expect(visitor.page.locator("#work")).to_be_visible()
    assert len(sizes) > 5
    assert sum(sizes) < 100_000
    assert Path(server.storage, "atgen.db").exists()
