"""Pages of generations: every one once, in the order that was asked for."""

from pathlib import Path

import pytest
from helpers.report_runs import MadeUp, write_run

from atgen_ray.core.errors import UserError
from atgen_ray.reporting.generations import PAGE_ROWS, read_generations
from atgen_ray.store.run_folder import RunFolder


def test_pages_hold_every_generation_once_and_the_worst_first(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "run", MadeUp(rounds=2, test=2 * PAGE_ROWS + 5))
    pages = [read_generations(folder, "rougeL", page=number) for number in (1, 2, 3)]
    assert [len(page.rows) for page in pages if page] == [PAGE_ROWS, PAGE_ROWS, 5]
    rows = [row for page in pages if page for row in page.rows]
    assert len({row.id for row in rows}) == 2 * PAGE_ROWS + 5
    scores = [row.scores["rougeL"] for row in rows]
    assert scores == sorted(scores)
    assert rows[0].text
    assert rows[0].references == [
        f"first reference of {rows[0].id}",
        f"second reference of {rows[0].id}",
    ]
    best = read_generations(folder, "rougeL", round=2, order="best")
    assert best
    assert best.rows[0].scores["rougeL"] == max(scores)


def test_a_page_after_the_last_is_the_last_and_an_unknown_round_a_mistake(tmp_path: Path) -> None:
    folder = write_run(str(tmp_path), "run", MadeUp(rounds=1, test=PAGE_ROWS + 1))
    found = read_generations(folder, None, round=0, order="source", page=99)
    assert found
    assert (found.page, found.pages, len(found.rows), found.rounds) == (2, 2, 1, [0, 1])
    with pytest.raises(UserError, match="round is 7, expected one that was evaluated: 0, 1"):
        read_generations(folder, None, round=7)


def test_a_run_without_predictions_has_no_page(tmp_path: Path) -> None:
    assert read_generations(RunFolder(str(tmp_path), "run"), None) is None
