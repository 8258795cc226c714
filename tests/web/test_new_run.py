"""A newcomer's way to a run, and labels of other tools: in a browser, against a server without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.desk_server import DeskServer
from helpers.human_desk import HumanDesk
from playwright.sync_api import Page, expect

from atgen_ray.annotation.human.exchange.label_export import read_tasks
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

MARKUP = "<img src=x onerror=alert(1)>"
POOL = f"Title;Text;Summary\nOne;{MARKUP} first, text;a\nTwo;second text;b\nThree;third;c\n"
Come = Callable[..., Visitor]


@pytest.fixture
def desk(server: DeskServer, journal: Journal) -> HumanDesk:
    """A run with three examples in its pool, of which nobody was asked yet."""
    desk = HumanDesk(journal, 3)
    pool = [{"id": id_, "text": text} for id_, text in desk.texts.items()]
    folder = RunFolder(str(server.storage), desk.run)
    folder.write_table("pool.parquet", pa.Table.from_pylist(pool))
    return desk


def bring(page: Page, name: str, content: str, field: str = "[data-upload='data-pool']") -> None:
    payload: Any = {"name": name, "mimeType": "text/plain", "buffer": content.encode()}
    page.locator(field).set_input_files([payload])


def value(page: Page, key: str) -> str:
    return page.locator(f"[data-key='{key}']").input_value()


def test_a_newcomer_comes_from_a_file_to_a_configuration(come: Come) -> None:
    page = come().open("/new")
    bring(page, "My Pool.csv", POOL)
    prompts = page.locator(".prompt")
    expect(prompts).to_have_count(3)
    assert (value(page, "data.input"), value(page, "data.references")) == ("Text", "Summary")
    expect(prompts.first).to_contain_text(f"{MARKUP} first, text")
    expect(prompts.first).to_contain_text("Answer: a")
    expect(prompts.first).to_contain_text("about 10 tokens")
    expect(page.get_by_label("Answer: Summary")).to_be_checked()
    page.get_by_label("Input: Title").focus()
    page.keyboard.press("Space")
    expect(prompts.nth(1)).to_contain_text("Title: Two\n\nText: second text")
    expect(page.get_by_label("Input: Title")).to_be_focused()
    template = "Sum up.\n\n{{ Title }}: {{ Text }}"
    page.locator("#prompt-template").fill(template)
    expect(prompts.nth(2)).to_contain_text("Sum up.\n\nThree: third")
    page.get_by_label("Input: Title").uncheck()
    expect(page.locator("#template-note")).to_contain_text("The template is your own")
    assert value(page, "prompt.template") == template
    page.get_by_label("People label").check()
    expect(page.locator("#annotator-overlap")).to_be_visible()
    expect(page.locator("#annotator-model")).to_be_hidden()
    expect(page.locator("#strategy")).to_contain_text("Recommended")
    page.get_by_text("Compare all").click()
    page.get_by_role("button", name="Use Random sampling").click()
    expect(page.locator("#selection-strategy")).to_be_focused()
    expect(page.locator("#strategy")).to_contain_text("random")
    page.get_by_text("More settings").click()
    page.locator("#annotator-lease_minutes").fill("7")
    page.locator("#name").fill("mine")
    page.locator("#model-id").fill("nobody/nothing")
    assert find_barriers(page) == []
    keep_screenshot(page, "new-run-steps")

    page.reload()
    expect(page.locator("#restored")).to_be_visible()
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/")
    page.go_back()
    expect(page.locator(".prompt")).to_have_count(3)
    expect(page.get_by_label("People label")).to_be_checked()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as YAML").click()
    assert download.value.suggested_filename == "mine.yaml"
    tree: Any = parse_yaml(Path(download.value.path()).read_text(encoding="utf-8"), "it")
    assert tree["data"] == tree["data"] | {"input": "Text", "references": "Summary"}
    assert tree["prompt"] == {"template": template}
    assert tree["annotator"] == {"type": "human", "lease_minutes": 7}
    assert tree["selection"] == {"strategy": "random"}
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#restored")).to_be_hidden()
    assert value(page, "data.pool") == ""


def test_a_mistake_in_a_folded_setting_is_gone_to(come: Come, desk: HumanDesk) -> None:
    page = come().open(f"/new?from={desk.run}")
    assert value(page, "name") == f"{desk.run}-2"
    assert page.locator("#model-id").input_value() == "m"
    expect(page.get_by_label("People label")).to_be_checked()
    page.locator("#data-pool").fill("")
    bring(page, "p.csv", POOL)
    expect(page.locator(".prompt")).to_have_count(3)
    page.get_by_text("More settings").click()
    page.locator("#annotator-skips").fill("none")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("#annotator-skips")).to_be_focused()
    expect(page.locator("#annotator-skips-mistake")).to_contain_text("annotator.skips is 'none'")


def test_labels_of_another_tool_are_looked_at_and_then_imported(
    come: Come, desk: HumanDesk, journal: Journal
) -> None:
    page = come().open(f"/annotate/{desk.run}/labels")
    rows = [
        {"Frage": "text 0", "Antwort": MARKUP, "worker": "w1"},
        {"Frage": "text 1", "Antwort": "eins", "worker": "w2"},
        {"Frage": "text of another pool", "Antwort": "zwei", "worker": "w2"},
    ]
    bring(page, "Labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows), "#file")
    expect(page.locator("#status")).to_have_text("Labels.jsonl is rows with a label each.")
    expect(page.locator("#counts")).to_contain_text("Will be imported2")
    expect(page.locator("#counts")).to_contain_text("Not in the pool1")
    expect(page.locator("#refused")).to_have_text("Row 3: the pool has no such example.")
    page.get_by_label("Label", exact=True).select_option("Frage")
    expect(page.locator("#rows tbody tr").first).to_contain_text("text 0w1text 0")
    page.get_by_label("Label", exact=True).select_option("Antwort")
    expect(page.locator("#rows tbody tr").first).to_contain_text(f"text 0w1{MARKUP}")
    assert find_barriers(page) == []
    keep_screenshot(page, "labels")
    assert read_tasks(journal, desk.run) == []
    page.get_by_role("button", name="Import 2 labels").click()
    expect(page.locator("#notice")).to_have_text("2 labels imported, 0 known before, 1 refused.")
    found = {task["id"]: task["label"] for task in read_tasks(journal, desk.run)}
    assert found == {"e00": MARKUP, "e01": "eins"}
    with page.expect_download() as download:
        page.get_by_role("link", name="Answers, for Argilla").click()
    assert download.value.suggested_filename == f"{desk.run}-argilla.json"
    assert len(json.loads(Path(download.value.path()).read_text(encoding="utf-8"))) == 2
    bring(page, "x.jsonl", "nonsense", "#file")
    expect(page.locator("#status.mistake")).to_contain_text("which cannot be read")


def test_form_and_labels_fit_narrow_and_wide_windows(come: Come, desk: HumanDesk) -> None:
    visitor = come(viewport={"width": 360, "height": 800}, color_scheme="dark")
    page = visitor.open("/new")
    bring(page, "p.csv", POOL)
    expect(page.locator(".prompt")).to_have_count(3)
    page.get_by_text("More settings").click()
    assert_fits(page)
    page = visitor.open(f"/annotate/{desk.run}/labels")
    bring(page, "l.csv", "input;text\ntext 0;a\n", "#file")
    expect(page.get_by_role("button", name="Import 1 label")).to_be_visible()
    assert_fits(page)


def assert_fits(page: Page) -> None:
    assert find_barriers(page) == []
    for width in (360, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 360, "height": 800})
