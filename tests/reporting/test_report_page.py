"""The page of one run."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.report_page import Page
from helpers.report_runs import MadeUp, write_run

from atgen_ray.core.records import DeadLetter
from atgen_ray.reporting import RunView, collect_run, render_page, write_report
from atgen_ray.selection.bounds import attach_bound
from atgen_ray.selection.kernels.bound import Bound
from atgen_ray.store.run_folder import RunFolder

SECTIONS = ("curves", "rounds", "selection", "examples", "time", "letters", "config", "versions")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)></style></textarea><svg "
    "onload=alert(3)> {{ 7 * 7 }} $x$"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(str(tmp_path_factory.mktemp("storage")), "demo", MadeUp())


@pytest.fixture(scope="module")
def view(folder: RunFolder) -> RunView:
    letters = [DeadLetter("pool-00007", "pool", "text is empty")]
    return collect_run(folder, letters, "stopping.rounds: 3 rounds are done")


@pytest.fixture(scope="module")
def page(view: RunView) -> Page:
    return Page(render_page([view]))


def test_every_section_is_filled(page: Page) -> None:
    for section in SECTIONS:
        assert page.text(f"A-{section}")
    assert "Not yet" not in page.text()
    assert "stopping.rounds: 3 rounds are done" in page.text()
    assert "pool-00007 pool text is empty" in page.text("A-letters")
    assert "strategy: huds" in page.text("A-config")
    assert "ray 2.60.0" in page.text("A-versions")


def test_headline_says_what_was_reached_and_what_it_cost(page: Page, folder: RunFolder) -> None:
    first, *_, last = folder.read_json("metrics.json")
    start, end = (row["metrics"]["rougeL"]["mean"] for row in (first, last))
    assert f"ROUGE-L {start:.2f} → {end:.2f} with 12 labels, $0.60 and 3 min 49 s." in page.text()
    assert (
        f"Scores of the same 12 test examples changed by +{end - start:.3f} on average"
        in page.text()
    )


def test_every_number_of_the_metrics_is_shown(page: Page, folder: RunFolder) -> None:
    shown = page.text("A-rounds")
    for row in folder.read_json("metrics.json"):
        assert f"{row['labels']} ${row['dollars']:.2f}" in shown
        for metric in row["metrics"].values():
            assert f"{metric['mean']:.3f} {metric['low']:.3f} to {metric['high']:.3f}" in shown
    assert "2.0 s 9.5 s – – – – 12 s 24 s" in page.text("A-time")
    assert "all 2.0 s 9.5 s 1 min 4 s 1.8 s 0.6 s 1 min 42 s 49 s 3 min 49 s" in page.text("A-time")


def test_curves_stand_over_labels_dollars_and_seconds(page: Page, folder: RunFolder) -> None:
    shown = page.text("A-curves")
    for axis in ("labels", "dollars", "minutes"):
        assert axis in shown
    labels = [plot["aria-label"] or "" for plot in page.find("svg")]
    last = folder.read_json("metrics.json")[-1]["metrics"]
    for name, title in (
        ("rouge1", "ROUGE-1"),
        ("rougeL", "ROUGE-L"),
        ("exact_match", "Exact match"),
    ):
        assert sum(label.startswith(f"{title} over") for label in labels) == 3
        assert f"{last[name]['mean']:.3f}" in shown


def test_selection_says_what_and_why(page: Page, folder: RunFolder, view: RunView) -> None:
    shown = page.text("A-selection")
    for number in (1, 2, 3):
        assert f"Round {number} 4 picked by huds, {4 * number} labels after it" in shown
        for row in folder.read_table(f"rounds/{number:03d}/selection.parquet").to_pylist():
            parts = [
                f"{dict(row['parts'])[name]:.3f}" for name in ("uncertainty", "diversity", "nll")
            ]
            assert f"{row['rank']} {row['score']:.3f} {' '.join(parts)}" in shown
            assert f"the label of {row['id']}" in shown
            assert f"what the model says about {row['id']}" in shown
    assert "Hybrid uncertainty and diversity. These examples are hard for the model" in shown
    assert "negative log-likelihood" in shown
    assert "How unsure the model was of its own answer" in shown
    assert "random draw" in shown
    assert view.rounds[1].picks[0].text in shown


def test_selection_says_how_near_it_is_to_the_best(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "near", MadeUp(rounds=1, strategy="facility_location"))
    path = "rounds/001/selection.parquet"
    table = folder.read_table(path)
    folder.write_table(path, attach_bound(table, Bound(0.9749, 10_000, 50_000)))
    shown = Page(render_page([collect_run(folder)])).text("A-selection")
    bound = ">= 97.4 % of the best possible (95 % sure, by 10,000 of 50,000 examples)"
    assert f"Their coverage is {bound}." in shown


def test_examples_show_both_answers_beside_the_references(page: Page, view: RunView) -> None:
    shown = page.text("A-examples")
    assert [shown.count(kind) for kind in ("Largest gain", "Typical", "Smallest gain")] == [2, 2, 2]
    assert len(view.examples) == 6
    for example in view.examples:
        assert f"first reference of {example.id}" in shown
        assert f"second reference of {example.id}" in shown
        assert f"answer 0 to {example.id}" in shown
        assert f"answer 3 to {example.id}" in shown
        assert example.text in shown


def test_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not page.tags() & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "base",
        "form",
        "input",
        "image",
    }
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
    assert not re.search(r"@import|url\((?!#)", "".join(page.styles))
    policy = next(meta["content"] for meta in page.find("meta") if "http-equiv" in meta) or ""
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert "script-src" not in policy


def test_plots_take_their_colours_from_the_page(page: Page) -> None:
    defined = set(re.findall(r"--([\w-]+):", "".join(page.styles)))
    used = {
        name
        for _, attributes in page.elements
        for value in attributes.values()
        for name in re.findall(r"var\(--([\w-]+)\)", value or "")
    }
    assert {"ink", "line", "series-1", "series-2", "dots"} <= used <= defined
    classes = {
        name for _, attributes in page.elements for name in (attributes.get("class") or "").split()
    }
    hues = {name for name in classes if name.startswith("series-")}
    assert hues
    assert all(f".{name} {{ --hue: var(--{name}); }}" in "".join(page.styles) for name in hues)
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not [name for name in ("fill", "stroke") if "#" in (attributes.get(name) or "")]


def test_ids_within_the_page_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for tag, attributes in page.elements if tag in ("use", "a")]
    assert {(target or "")[1:] for target in targets} <= set(ids)


def test_markup_in_the_data_is_inert(tmp_path: Path) -> None:
    made = MadeUp(texts=dict.fromkeys(range(60), HOSTILE), answer=HOSTILE)
    folder = write_run(str(tmp_path), "demo", made)
    folder.write_json("versions.json", {HOSTILE: HOSTILE})
    folder.write_text("config.yaml", folder.read_text("config.yaml") + f"note: '{HOSTILE}'\n")
    hostile = dataclasses.replace(
        collect_run(folder, [DeadLetter(HOSTILE, HOSTILE, HOSTILE)], HOSTILE), name=HOSTILE
    )
    for views in ([hostile], [hostile, hostile]):
        page = Page(render_page(views))
        assert not page.tags() & {"script", "img", "textarea"}
        assert not [
            name for _, attributes in page.elements for name in attributes if name.startswith("on")
        ]
        assert "{{ 7 * 7 }} $x$" in page.text("A-selection" if len(views) == 1 else None)
        assert "49" not in page.text("A-examples").replace("00049", "")
    write_report([hostile, hostile], tmp_path / "report.html")


def test_odd_characters_break_neither_page_nor_plots(view: RunView, tmp_path: Path) -> None:
    odd = [
        "\x00",
        "\x0b",
        "\ud800",
        "\u2028",
        "]]>",
        "--><u>",
        "&amp;&#60;u&#62;",
        "a" * 5000,
        "$\\frac$",
    ]
    views = [
        dataclasses.replace(view, name=f"run{letter}", rounds=view.rounds[:2]) for letter in odd
    ]
    page = Page(write_report(views, tmp_path / "report.html").read_text())
    assert "u" not in page.tags()
    assert "run&amp;&#60;u&#62;" in page.text("runs")


def test_equal_runs_give_equal_bytes(folder: RunFolder, tmp_path: Path) -> None:
    script = (
        "import sys; from atgen_ray.reporting import *; from atgen_ray.store.run_folder import "
        "RunFolder\n"
        "view = collect_run(RunFolder(sys.argv[1], 'demo')); write_report([view, view], "
        "sys.argv[2])"
    )
    storage = str(Path(folder.root).parent.parent)
    written = []
    for seed in ("1", "2"):
        output = tmp_path / seed / "report.html"
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-c", script, storage, str(output)], check=True, env=environment
        )
        written.append((output.read_bytes(), (output.parent / "learning_curve.png").read_bytes()))
    assert written[0] == written[1]


def test_files_appear_whole_beside_each_other(view: RunView, tmp_path: Path) -> None:
    path = write_report([view], tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "learning_curve.png",
        "report.html",
    ]
    assert (path.parent / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()
    assert write_report([view], path).read_bytes() == before


def test_a_large_pool_keeps_the_page_small(tmp_path: Path) -> None:
    made = MadeUp(pool=10_000, rounds=12, count=30, test=100)
    view = collect_run(write_run(str(tmp_path), "demo", made), stopped="done")
    html = render_page([view])
    assert len(html) < 3_000_000
    page = Page(html)
    assert "of 10,000 in the pool" in page.text()
    assert "The first 10 of 30 picks" in page.text("A-selection")
    maps = [
        plot
        for plot in page.find("svg")
        if (plot["aria-label"] or "").startswith("Map of the pool: 30 picks")
    ]
    assert len(maps) == 12


def test_importing_reports_stays_light() -> None:
    script = (
        "import sys, atgen_ray.reporting; print({'matplotlib', 'jinja2', 'scipy', 'torch', "
        "'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"
