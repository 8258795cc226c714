"""A first batch that was chosen elsewhere: its ids are read, checked and picked in their order."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.config.selection import SelectionConfig, name_strategy
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import POOL_SCHEMA, Annotation, DeadLetter
from atgen_ray.data.chosen_ids import find_unknown_ids, read_ids
from atgen_ray.preflight import Inputs, Setting
from atgen_ray.preflight.inputs import check_ids
from atgen_ray.runs.estimate import estimate_labels, estimate_work
from atgen_ray.runs.state import RunState
from atgen_ray.selection.registry import explain_strategy
from atgen_ray.serving.run_restrictions import restrict_ids
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

POOL = [f"{at:024x}" for at in range(10)]


def configure(folder: Path, **more: Any) -> Any:
    data = {"pool": str(folder / "p.jsonl"), "references": "a", "input": "q"}
    tree = {"name": "task", "storage": str(folder), "data": data, "model": {"id": "m"}}
    return parse_config(tree | more)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_ids_are_read_from_lines_and_tables_once_each(kind: str, tmp_path: Path) -> None:
    ids = ["b0", "a1", "b0", "c2"]
    path = tmp_path / f"picks.{kind}"
    lines = {
        "txt": [*ids, "", "  "],
        "jsonl": [json.dumps({"id": id_, "rank": 1}) for id_ in ids],
        "csv": ["rank,id", *(f"1,{id_}" for id_ in ids)],
    }
    path.write_text("\n".join(lines[kind]) + "\n")
    assert read_ids(str(path)) == ["b0", "a1", "c2"]
    assert read_ids(ids) == ["b0", "a1", "c2"]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("none.txt", None, "expected a file that can be read"),
        ("none.jsonl", None, "expected an existing file"),
        ("empty.txt", "\n", "which names no example"),
        ("other.jsonl", '{"row": 1}\n', "expected a column 'id': other.jsonl item 1: has none"),
    ],
)
def test_a_file_without_ids_is_one_line(
    name: str, text: str | None, line: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"selection.ids is .*{line}") as wrong:
        read_ids(str(tmp_path / name))
    assert "\n" not in str(wrong.value)


def test_an_unknown_id_is_one_line_with_the_nearest_one() -> None:
    parts = [pa.table({"id": POOL[:4]}), pa.table({"id": POOL[4:]})]
    assert [*find_unknown_ids(POOL, POOL, parts)] == []
    near = POOL[7][:-2] + "x7"
    [line] = find_unknown_ids("f.txt", [POOL[7], near, "zebra"], parts)
    assert line == (
        f"selection.ids: '{near}' of 'f.txt' is no example of the pool (and so are 1 others); "
        f"did you mean '{POOL[7]}'?"
    )
    [line] = find_unknown_ids(["zebra"], ["zebra"], parts)
    assert line.endswith(f"'zebra' is no example of the pool, whose ids are such as '{POOL[0]}'")


def test_the_preflight_names_an_id_that_a_small_pool_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"q": "one", "a": "1"}\n{"q": "two", "a": "2"}\n')
    known = Inputs(configure(tmp_path)).pool.examples["id"].to_pylist()  # type: ignore[union-attr]
    good = configure(tmp_path, selection={"ids": known})
    assert [*check_ids(Setting(good), Inputs(good))] == []
    bad = configure(tmp_path, selection={"ids": [known[0], "other"]})
    [line] = check_ids(Setting(bad), Inputs(bad))
    assert line.startswith("selection.ids: 'other' is no example of the pool")


def test_what_is_labelled_or_dead_is_not_picked_and_the_budget_cuts(tmp_path: Path) -> None:
    chosen = [POOL[at] for at in (5, 2, 8, 1, 9)]
    (tmp_path / "picks.txt").write_text("\n".join(chosen))
    ids = str(tmp_path / "picks.txt")
    config = configure(tmp_path, selection={"ids": ids}, stopping={"labels": 2})
    journal, folder = open_journal(str(tmp_path)), RunFolder(str(tmp_path), "task")
    journal.create_run("task", dump_config(config), "")
    lease = journal.acquire("task", ProcessIdentity("us"), 60)
    config = config.model_copy(update={"data": config.data.model_copy(update={"labeled": "l"})})
    rows = [{"id": id_, "row": at, "text": id_, "content": id_} for at, id_ in enumerate(POOL)]
    folder.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
    journal.record_annotations(lease, 0, [Annotation(POOL[2], "known", "given")])
    journal.record_dead_letters(lease, None, [DeadLetter(POOL[5], "pool", "in the test set")])
    state = RunState(config, journal, folder)
    picks = state.choose_given().to_pylist()
    assert [(row["id"], row["rank"]) for row in picks] == [(POOL[8], 1), (POOL[1], 2)]


def test_a_chosen_batch_needs_no_model_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    config = configure(tmp_path, selection={"ids": POOL[:7], "strategy": "entropy", "count": 2})
    assert config.list_needs(1) == frozenset()
    assert config.list_needs(2)
    assert not config.selection.reads_model(1)
    assert config.selection.reads_model(2)
    assert name_strategy(dump_config(config), 1) == config.selection.name_strategy(1)
    assert name_strategy(dump_config(config), 2) == "entropy"
    assert explain_strategy(config.selection.name_strategy(1)).title == "Chosen elsewhere"
    assert estimate_labels(config, 100)[:2] == [7, 9]
    assert estimate_work(config, 100, 100, 0, [7])["generation"] == 0


@pytest.mark.parametrize(
    ("selection", "line"),
    [
        ({"ids": []}, r"selection.ids is \[\], expected ids, or a file of them"),
        ({"ids": ["a"], "first": {"count": 3}}, "selection.first.count is given beside"),
        ({"ids": ["a"], "first": {"strategy": "random"}}, "selection.first.strategy is given"),
    ],
)
def test_a_first_batch_is_named_once(selection: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        configure(tmp_path, selection=selection)


def test_a_run_that_takes_over_another_has_its_first_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"selection.ids is given beside fork_from=demo:1"):
        configure(tmp_path, selection={"ids": ["a"]}, fork_from="demo:1")


def test_over_http_the_file_lies_where_data_may(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "picks.txt").write_text("a\n")
    given = SelectionConfig(ids=str(inside / "picks.txt"))
    assert restrict_ids(given, [str(inside)]).ids == str(inside / "picks.txt")
    listed = SelectionConfig(ids=["a"])
    assert restrict_ids(listed, [str(inside)]) is listed
    with pytest.raises(UserError, match=r"selection.ids is '/etc/passwd'"):
        restrict_ids(SelectionConfig(ids="/etc/passwd"), [str(inside)])
