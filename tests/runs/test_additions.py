"""Rows that are added to the pool of a run: once each, none that it has, and at no wrong moment."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.annotation_desk import quiet
from helpers.command_line import call

from atgen_ray.config import RunConfig, ServiceConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import TOMBSTONE, Annotation
from atgen_ray.data.added_rows import mark_near
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.models.user_template import drop_literals
from atgen_ray.reporting.growth import describe_added
from atgen_ray.reporting.page import render_page
from atgen_ray.reporting.publish import view_run
from atgen_ray.runs.additions import Addition, NothingNewError, add_rows
from atgen_ray.runs.controller import Controller
from atgen_ray.runs.deletion import Target, delete
from atgen_ray.runs.doctor import examine
from atgen_ray.runs.driver import enter_run, find_end
from atgen_ray.runs.exporting.cards import write_dataset_card
from atgen_ray.runs.exporting.facts import collect_facts
from atgen_ray.runs.queries import describe_run
from atgen_ray.runs.workers import RAY_WORKERS
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.callers import Caller
from atgen_ray.store.additions import (
    ADDED,
    PART,
    PART_SCHEMA,
    describe_growths,
    find_waiting,
    list_growths,
)
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

LONG = "the long story of a fox that went over seven hills and came to a town of bears in spring"
POOL = [{"q": f"what is number {at}", "a": str(at)} for at in range(4)] + [{"q": LONG, "a": "x"}]
TEST = [{"q": "what is number 9", "a": "nine"}]
MORE = [
    {"q": "what is number 2", "a": "2"},  # known
    {"q": "what is number 9", "a": "9"},  # in the test set
    {"q": "what is number 5", "a": "5"},
    {"q": "what is number 6", "a": "6"},
    {"q": "", "a": "7"},  # unusable
    {"q": LONG.replace("spring", "autumn"), "a": "y"},  # nearly the same
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configure(folder: Path, **more: Any) -> RunConfig:
    data: dict[str, Any] = {"pool": write(folder / "pool.jsonl", POOL)}
    data |= {"test": write(folder / "test.jsonl", TEST)}
    data |= {"input": "q", "references": "a", "duplicates": {"threshold": 0.7}}
    tree = {"name": "task", "storage": str(folder), "data": data, "model": {"id": "m"}}
    tree |= {"selection": {"strategy": "random", "count": 2}, "stopping": {"rounds": 9}}
    return parse_config(tree | {"prompt": {"template": "Say: {{ input }}"}} | more)


def take_up(config: RunConfig) -> Controller:
    """A new controller of the run, which has read its pool in this process."""
    journal = open_journal(config.storage)
    config = enter_run(config, journal)
    lease = journal.acquire(config.name, ProcessIdentity("us"), 60, takeover=True)
    folder = RunFolder(config.storage, config.name).fenced(f"{lease.epoch}-x", lease.renew)
    workers = replace(RAY_WORKERS, estimate_run=lambda *_: {})
    controller = Controller(config, journal, lease, folder, ProgressTracker(), quiet, workers)
    controller.recover()
    with reading_in_process():
        controller.pool.prepare()
    return controller


def begin_round(controller: Controller) -> None:
    """Select in round 1, which has no scores to steer by."""
    controller.picks.select(1)
    controller._run.folder.write_json("rounds/001/metrics.json", {})


def journal_of(config: RunConfig) -> Journal:
    return open_journal(config.storage)


def add(config: RunConfig, rows: list[dict[str, Any]] = MORE, name: str = "more") -> Addition:
    source = write(Path(config.storage, f"{name}.jsonl"), rows)
    return add_rows(journal_of(config), config.storage, config.name, source)


def texts(config: RunConfig) -> list[str]:
    rows = RunFolder(config.storage, config.name).read_table("pool.parquet").to_pylist()
    return [row["text"] for row in rows]


def test_what_the_run_has_is_not_added_and_all_is_told(tmp_path: Path) -> None:
    config = configure(tmp_path)
    take_up(config)
    found = add(config)
    assert found.counts == {
        "offered": 6,
        "added": 3,
        "known": 1,
        "test": 1,
        "repeated": 0,
        "unusable": 1,
    }
    assert str(found) == (
        "3 of 6 rows are added to run 'task'; 1 known already, 1 in the test set, 1 unusable (as: "
        "more.jsonl line 5: 'q' is empty)"
    )
    # Nothing of the pool is touched yet.
    assert len(texts(config)) == len(POOL)
    with pytest.raises(
        NothingNewError, match=r"of whose 6 rows none is new to run 'task': 4 known"
    ):
        add(config)
    # The same rows in another order, and under another name, are the same examples.
    with pytest.raises(NothingNewError):
        add(config, MORE[::-1], "again")
    assert len(find_waiting(journal_of(config), "task")) == 1


def test_the_pool_takes_them_before_a_round_and_never_within_one(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    assert controller.find_stop(0) is None
    begin_round(controller)
    add(config)
    # Round 1 has begun: a controller that comes to it again leaves its pool as it was.
    again = take_up(config)
    assert again.find_stop(0) is None
    assert len(texts(config)) == len(POOL)
    assert again.find_stop(1) is None
    assert texts(config)[len(POOL) :] == [
        "Say: what is number 5",
        "Say: what is number 6",
        "Say: " + MORE[5]["q"],
    ]
    folder = again._run.folder
    rows = folder.read_table("pool.parquet").to_pylist()
    assert [row["duplicate_of"] for row in rows[-3:]] == [None, None, rows[4]["id"]]
    assert [row["references"] for row in folder.read_rows("gold.parquet", [rows[5]["id"]])] == [
        ["5"]
    ]
    # A near-duplicate is no candidate, and what came later was none of a round before.
    state = again._run.state
    ids = [row["id"] for row in rows]
    assert state.candidates(1).to_pylist() == ids[: len(POOL)]
    assert state.candidates(2).to_pylist() == ids[: len(POOL) + 2]
    assert folder.list("inbox") == []
    (growth,) = list_growths(journal_of(config).steps("task"))
    assert (growth.round, growth.step) == (2, "growth-1")
    assert {key: growth.payload[key] for key in ("before", "added", "near_duplicates")} == {
        "before": len(POOL),
        "added": 3,
        "near_duplicates": 1,
    }
    # A third controller finds nothing to do, and the file brings nothing.
    assert take_up(config).find_stop(1) is None
    assert len(texts(config)) == len(POOL) + 3
    with pytest.raises(NothingNewError):
        add(config)


def test_a_pool_that_is_exhausted_goes_on_with_what_is_added(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    begin_round(controller)
    lease = controller._run.lease
    ids = controller._run.folder.read_table("pool.parquet")["id"].to_pylist()
    labels = [Annotation(id_, "x", "a") for id_ in ids]
    controller._run.journal.record_annotations(lease, 1, labels)
    assert controller.find_stop(1) == "pool exhausted"
    controller._run.folder.write_json("metrics.json", [])
    journal = controller._run.journal
    journal.append(lease, "finished", payload={"message": "pool exhausted"})
    journal.set_status(lease, "finished")
    assert find_end(config, journal, "run") is not None
    add(config)
    assert find_end(config, journal, "run") is None  # the same command goes on
    again = take_up(config)
    assert again.find_stop(1) is None
    assert len(again._run.state.candidates(2)) == 2
    # With the money spent more rows are no reason to go on.
    journal.append(again._run.lease, "finished", payload={"message": "budget spent"})
    journal.set_status(again._run.lease, "finished")
    add(config, [{"q": "what is number 7", "a": "7"}], "third")
    assert find_end(config, journal, "run") is not None


class Died(Exception):
    pass


@pytest.mark.parametrize("when", ["part written", "made", "committed", "published"])
def test_a_kill_at_any_moment_neither_loses_nor_doubles_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Died

    config = configure(tmp_path)
    controller = take_up(config)
    with monkeypatch.context() as patch:
        if when == "part written":
            patch.setattr("atgen_ray.runs.additions.enter_addition", die)
            with pytest.raises(Died):
                add(config)
            assert find_waiting(journal_of(config), "task") == []
            assert RunFolder(config.storage, "task").list("inbox")
            controller._run.lease.release()
            assert "leftover" in {
                finding.kind
                for finding in examine(journal_of(config), str(tmp_path), "task").findings
            }
    if when == "part written":
        assert add(config).added == 3
    else:
        add(config)
        place = {
            "made": (controller._run.journal, "append"),
            "committed": (controller.committer.outputs, "publish"),
            "published": (controller._run.folder, "remove"),
        }[when]
        with monkeypatch.context() as patch:
            patch.setattr(*place, die)
            with pytest.raises(Died):
                controller.find_stop(0)
        with pytest.raises(NothingNewError):
            add(config)
    again = take_up(config)
    assert again.find_stop(0) is None
    assert len(texts(config)) == len(set(texts(config))) == len(POOL) + 3
    gold = RunFolder(config.storage, "task").read_table("gold.parquet")["id"].to_pylist()
    assert len(gold) == len(set(gold)) == len(POOL) + len(TEST) + 3
    assert len(list_growths(journal_of(config).steps("task"))) == 1
    again._run.lease.release()
    left = examine(journal_of(config), str(tmp_path), "task", deep=True).findings
    assert [finding.kind for finding in left if finding.kind != "leftover"] == []
    assert find_waiting(journal_of(config), "task") == []


def test_parts_that_overlap_give_each_row_once(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    add(config, [{"q": "one more", "a": "1"}, {"q": "two more", "a": "2"}])
    folder = RunFolder(config.storage, "task")
    # Somebody else read the same rows at the same moment, before either was entered.
    (part,) = folder.list("inbox")
    rows = folder.read_table(part)
    other = pa.concat_tables([rows.slice(1), rows.slice(0, 1)])
    folder.write_table("inbox/other.parquet", other)
    journal = journal_of(config)
    (event,) = find_waiting(journal, "task")
    journal.append(
        controller._run.lease, ADDED, payload=event.payload | {PART: "inbox/other.parquet"}
    )
    assert controller.find_stop(0) is None
    assert texts(config)[len(POOL) :] == ["Say: one more", "Say: two more"]
    (growth,) = describe_growths(journal.events("task"))
    assert (growth["added"], growth["known"]) == (2, 2)


def test_a_deleted_example_leaves_inbox_and_pool_and_does_not_come_back(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    add(config)
    controller._run.lease.release()
    folder = RunFolder(config.storage, "task")
    (part,) = folder.list("inbox")
    waiting = {row["text"]: row["id"] for row in folder.read_table(part).to_pylist()}
    journal = journal_of(config)
    first = waiting["Say: what is number 5"]
    done = delete(journal, str(tmp_path), Target("example", (first,)), "ann")
    assert [(gone.place, gone.count) for gone in done.removed if "inbox" in gone.place] == [
        (f"runs/task/{part}", 1)
    ]
    assert any("more.jsonl" in left.place for left in done.remains)
    with pytest.raises(NothingNewError):
        add(config)
    again = take_up(config)
    assert again.find_stop(0) is None
    again._run.lease.release()
    second = waiting["Say: what is number 6"]
    delete(journal, str(tmp_path), Target("example", (second,)), "ann")
    rows = {row["id"]: row for row in folder.read_table("pool.parquet").to_pylist()}
    assert first not in rows
    assert rows[second]["content"] == TOMBSTONE
    assert second not in folder.read_table("gold.parquet")["id"].to_pylist()
    assert not examine(journal, str(tmp_path), "task", deep=True).findings
    with pytest.raises(NothingNewError):
        add(config, MORE[::-1], "again")


def test_a_part_that_is_gone_is_told_and_comes_back_by_the_same_command(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    add(config)
    folder = RunFolder(config.storage, "task")
    folder.remove(folder.list("inbox")[0])
    with pytest.raises(UserError, match="is missing, although the journal of run 'task' says"):
        controller.find_stop(0)
    controller._run.lease.release()
    (found,) = examine(journal_of(config), str(tmp_path), "task").findings
    assert (found.kind, "give the same `atgen-ray runs add` again" in found.do) == (
        "missing-output",
        True,
    )
    assert add(config).added == 3
    assert take_up(config).find_stop(0) is None
    assert len(texts(config)) == len(POOL) + 3


def test_words_of_the_template_make_no_near_duplicates() -> None:
    template = "Please read the following story with care and say in a word: {{ input }} Thank you."
    filled = [template.replace("{{ input }}", text) for text in ("a cat", "a dog", LONG)]
    assert [drop_literals(template, text).strip() for text in filled] == ["a cat", "a dog", LONG]
    rows = [
        {"id": f"i{at}", "row": at, "text": text, "content": str(at), "duplicate_of": None}
        for at, text in enumerate(filled)
    ]
    pool = pa.Table.from_pylist([*rows[:1], rows[2]])
    new = pa.Table.from_pylist([rows[1], rows[2] | {"id": "again"}], PART_SCHEMA)
    marked = mark_near(template, 0.7, [pool.select(["id", "text", "content", "duplicate_of"])], new)
    assert marked["duplicate_of"].to_pylist() == [None, "i2"]


def test_the_command_tells_what_it_did_and_refuses_in_one_line(tmp_path: Path) -> None:
    config = configure(tmp_path)
    take_up(config)
    source = write(tmp_path / "more.jsonl", MORE)
    place = ("--storage", str(tmp_path))
    done = call("runs", "add", "task", source, *place)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("3 of 6 rows are added to run 'task'; 1 known already")
    for name, rows, said in (
        ("task", MORE, "none is new to run 'task'"),
        ("tusk", MORE, "run 'tusk' is unknown; did you mean 'task'"),
        ("task", [{"question": "x"}], "data.input names 'q', a column that no row of"),
    ):
        source = write(tmp_path / "rows.jsonl", rows)
        refused = call("runs", "add", name, source, *place)
        assert refused.status == 2
        assert said in refused.err
        assert refused.err.count("\n") == 1
    for source in (str(tmp_path / "none.jsonl"), "maker/dataset"):
        refused = call("runs", "add", "task", source, *place)
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert "expected an existing file, folder, glob or URL" in refused.err
    shown = call("runs", "show", "task", *place)
    assert "added 3 of 6 rows of" in shown.out
    assert "they wait for the next round" in shown.out


def test_a_run_without_a_pool_or_without_its_adapters_takes_no_rows(tmp_path: Path) -> None:
    config = configure(tmp_path)
    enter_run(config, journal_of(config))
    with pytest.raises(UserError, match="has not read its pool yet"):
        add(config)
    controller = take_up(config)
    controller._run.lease.release()
    journal_of(config).note_removed("task", ["rounds/001/adapter"])
    with pytest.raises(UserError, match="is over for good: its adapters were removed"):
        add(config)


def test_what_came_when_is_shown(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    add(config)
    controller.find_stop(0)
    shown = describe_run(journal_of(config), str(tmp_path), "task")
    (row,) = shown["added"]
    assert (row["round"], row["added"], row["known"]) == (1, 3, 1)
    assert row["reasons"] == {"more.jsonl line 5: 'q' is empty": 1}
    lines = describe_added(shown["added"], shown["growths"])
    assert lines[0].endswith("more.jsonl line 5: 'q' is empty))")
    assert lines[1].endswith(
        "the pool grew from 5 to 8 examples before round 1 (1 of them near-duplicates)"
    )


def test_what_a_report_says_of_growth_and_of_the_audit_that_was_drawn_before(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    controller._run.journal.append(controller._run.lease, "step", 0, "audit-draw")
    add(config)
    controller.find_stop(0)
    view = view_run("task", journal_of(config), str(tmp_path))
    assert (view.pool_size, view.unaudited, len(view.growth)) == (8, 3, 2)
    facts = collect_facts(config, journal_of(config), controller._run.folder, 0)
    assert "To that pool 3 examples were added later." in write_dataset_card(facts, {})
    page = render_page([view])
    assert "the pool grew from 5 to 8 examples before round 1" in page
    assert "it measures the pool without the 3 examples that were added since" in page


def test_a_run_that_takes_over_has_the_pool_as_it_has_grown(tmp_path: Path) -> None:
    config = configure(tmp_path)
    controller = take_up(config)
    add(config)
    assert controller.find_stop(0) is None
    ids = controller._run.folder.read_table("pool.parquet")["id"].to_pylist()
    begin_round(controller)
    lease = controller._run.lease
    controller._run.journal.record_annotations(lease, 1, [Annotation(ids[0], "x", "a")])
    controller._run.folder.write_jsonl("rounds/001/annotations.jsonl", [])
    controller._run.journal.append(lease, "step", 1, "annotation")
    fork = take_up(configure(tmp_path, name="fork", fork_from="task:1"))
    assert fork._run.folder.read_table("pool.parquet")["id"].to_pylist() == ids
    assert len(fork._run.state.candidates(2)) == len(ids) - 2  # a label, and a near-duplicate
    with pytest.raises(NothingNewError, match="none is new to run 'fork'"):
        add(configure(tmp_path, name="fork", fork_from="task:1"))


def test_over_http_rows_come_from_uploads_and_data_roots_alone(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    (storage / "uploads").mkdir(parents=True)
    (tmp_path / "roots").mkdir()
    config = configure(storage)
    take_up(config)
    tree = {"storage": str(storage), "data_roots": [str(tmp_path / "roots")]}
    service = ServiceConfig.model_validate(tree | {"limits": {"upload_bytes": 400}})
    manager = RunManager(service, journal_of(config))
    caller = Caller("1", "admin", "lea")
    inside = write(storage / "uploads/more.jsonl", MORE)
    assert manager.add("task", inside, caller).startswith("3 of 6 rows are added to run 'task'")
    (event,) = journal_of(config).events("task", kind=ADDED)
    assert event.payload["by"] == "lea"
    with pytest.raises(ApiError, match="none is new to run 'task'") as refused:
        manager.add("task", inside, caller)
    assert refused.value.status == 409
    with pytest.raises(ApiError) as refused:
        manager.add("tusk", inside, caller)
    assert refused.value.status == 404
    large = write(tmp_path / "roots/large.jsonl", [{"q": f"number {at}"} for at in range(50)])
    for source, line in (
        (
            write(tmp_path / "more.jsonl", MORE),
            "which is not below any of the service's data_roots",
        ),
        ("/etc/passwd", "which is not below any of the service's data_roots"),
        ("http://127.0.0.1/rows.jsonl", "which is not below any of the service's data_roots"),
        ("maker/dataset", "expected an existing file, folder, glob or URL"),
        (large, r"expected at most 400 \(limits.upload_bytes\)"),
    ):
        with pytest.raises(UserError, match=line):
            manager.add("task", source, caller)
