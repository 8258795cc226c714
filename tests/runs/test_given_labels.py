"""Labels of data.labeled: they cost nothing, are never selected again, and leak nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_desk import quiet

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import GIVEN
from atgen_ray.core.stored import Stored
from atgen_ray.data import build_split
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.preflight import Inputs, Setting
from atgen_ray.preflight.inputs import check_data
from atgen_ray.runs.controller import Controller
from atgen_ray.runs.driver import enter_run
from atgen_ray.runs.estimate import PoolSummary, estimate_work
from atgen_ray.runs.takeover import take_over
from atgen_ray.runs.workers import RAY_WORKERS
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

POOL = [{"q": f"what is number {at}", "a": "?"} for at in (0, 1, 2, 3, 3)]
TEST = [{"q": "what is number 9", "a": "nine"}]
LABELED = [
    {"q": "what is number 3", "a": "three"},
    {"q": "what is a number", "a": "a thought"},
    {"q": "what is number 9", "a": "it leaks"},
    {"q": "what is number 3", "a": "four"},
    {"q": "what is number 1", "a": ""},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configure(folder: Path, **more: Any) -> RunConfig:
    data = {"pool": write(folder / "pool.jsonl", POOL), "test": write(folder / "test.jsonl", TEST)}
    data |= {"labeled": write(folder / "labeled.jsonl", LABELED), "input": "q", "references": "a"}
    data |= {"duplicates": {"action": "off"}} | more.pop("data", {})
    tree = {"name": "task", "storage": str(folder), "data": data, "model": {"id": "m"}}
    return parse_config(tree | {"prompt": {"template": "Say: {{ input }}"}} | more)


def read_pool(config: RunConfig, seen: list[PoolSummary] | None = None) -> Controller:
    """The controller of a run that has read its pool, in this process."""

    def estimate(_: RunConfig, summary: PoolSummary, *rest: Any) -> dict[str, Any]:
        if seen is not None:
            seen.append(summary)
        return {}

    journal = open_journal(config.storage)
    config = enter_run(config, journal)
    lease = journal.acquire(config.name, ProcessIdentity("us"), 60, takeover=True)
    folder = RunFolder(config.storage, config.name)
    workers = replace(RAY_WORKERS, estimate_run=estimate)
    controller = Controller(config, journal, lease, folder, ProgressTracker(), quiet, workers)
    with reading_in_process():
        controller.pool.prepare()
    return controller


def test_given_rows_are_labels_of_the_pool_or_examples_of_their_own(tmp_path: Path) -> None:
    seen = list[PoolSummary]()
    controller = read_pool(configure(tmp_path), seen)
    state, folder = controller._run.state, controller._run.folder
    rows = folder.read_table("pool.parquet").to_pylist()
    texts = {row["id"]: row["text"] for row in rows}
    labels = state.labels(0)
    assert [(texts[label.id], label.text) for label in labels] == [
        ("Say: what is number 3", "three"),
        ("Say: what is a number", "a thought"),
    ]
    assert [(label.annotator, label.dollars) for label in labels] == [(GIVEN, 0.0)] * 2
    assert labels[0].id == rows[3]["id"]  # the first of that text in the pool
    assert len(rows) == len(POOL) + 1
    # Neither a labelled text nor its repetition can be picked.
    assert [texts[id_] for id_ in state.candidates(1).to_pylist()] == [
        f"Say: what is number {at}" for at in range(3)
    ]
    reasons = [letter.reason for _, letter in controller._run.journal.dead_letters("task")]
    assert sorted(reasons) == [
        "its text is also in the test set",
        "its text is in data.labeled before, with another answer",
        "its text is labelled already: it is in data.labeled",
        "labeled.jsonl line 5: has no reference",
    ]
    assert (seen[0].rows, seen[0].leaked, seen[0].given) == (len(POOL), 2, 2)


def test_given_labels_count_in_no_budget_and_are_trained_on(tmp_path: Path) -> None:
    config = configure(tmp_path, stopping={"labels": 2}, selection={"count": 2})
    controller = read_pool(config)
    state = controller._run.state
    assert state.count_labels(0) == 2
    assert (state.count_given(), state.count_budgeted(0), state.affordable(1)) == (2, 0, 2)
    assert controller.find_stop(0) is None
    work = estimate_work(config, 5, 3, 1, [2], given=30)
    assert work["training"] > estimate_work(config, 5, 3, 1, [2])["training"]


def test_reading_the_pool_again_enters_nothing_twice(tmp_path: Path) -> None:
    before = read_pool(configure(tmp_path))
    labels = before._run.journal.annotations("task")
    again = read_pool(configure(tmp_path))
    assert again._run.journal.annotations("task") == labels
    assert again._run.journal.count_labels("task") == {0: 2}


def test_a_run_without_an_example_left_says_so(tmp_path: Path) -> None:
    everything = [row | {"a": "yes"} for row in POOL]
    labeled = write(tmp_path / "all.jsonl", everything)
    controller = read_pool(configure(tmp_path, data={"labeled": labeled}))
    assert controller.find_stop(0) == "pool exhausted"
    with pytest.raises(UserError, match=r"the run ends before its first round \(pool exhausted\)"):
        controller.labels.require(0, "pool exhausted")


def test_the_labels_of_another_run_are_read_as_they_are(tmp_path: Path) -> None:
    first = read_pool(configure(tmp_path))
    first.labels.write(0)
    written = str(tmp_path / "runs/task/labeled.jsonl")
    other = configure(tmp_path, name="other", data={"labeled": written})
    second = read_pool(other)
    rows = [
        (row["input"], row["text"], row["annotator"]) for row in second._run.state.labeled_rows(0)
    ]
    assert rows == [
        ("Say: what is number 3", "three", GIVEN),
        ("Say: what is a number", "a thought", GIVEN),
    ]


def test_a_run_that_takes_over_has_the_given_labels(tmp_path: Path) -> None:
    first = read_pool(configure(tmp_path))
    config = configure(tmp_path, name="fork").model_copy(update={"fork_from": "task:1"})
    first._run.journal.create_run("fork", dump_config(config), "")
    lease = first._run.journal.acquire("fork", ProcessIdentity("us"), 60)
    take_over(config, first._run.journal, lease, RunFolder(config.storage, "fork"))
    assert first._run.journal.annotations("fork") == first._run.journal.annotations("task")


@pytest.mark.parametrize(
    ("labeled", "more", "line"),
    [
        ("none.jsonl", {}, "data.labeled is '{}', expected an existing file"),
        (
            [{"q": "x", "ans": "y"}],
            {"labeled_references": "answr"},
            "data.labeled_references names 'answr', a column that no row of '{}' has",
        ),
        ([{"question": "x", "a": "y"}], {}, "data.input names 'q', a column that no row of '{}'"),
        ([{"q": "x", "a": ""}], {}, "data.labeled is '{}', of which no row is usable; the first"),
    ],
)
def test_mistakes_are_one_line_of_the_preflight(
    labeled: Any, more: dict[str, str], line: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.jsonl"
    if isinstance(labeled, str):
        path = tmp_path / labeled
    else:
        write(path, labeled)
    config = configure(tmp_path, data={"labeled": str(path), **more})
    [found] = check_data(Setting(config), inputs=Inputs(config))
    assert found.startswith(line.format(path))


def test_a_pool_in_a_folder_leaves_the_file_of_labels_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set/train.jsonl", POOL)
    more = {"path": str(tmp_path / "set"), "test": None, "format": "jsonl"}
    config = configure(tmp_path, data=more)
    with reading_in_process():
        split = build_split(config.data, config.prompt, "labeled", 0)
    assert split.gold["references"].to_pylist()[0] == ["three"]


def test_the_first_batch_is_what_was_chosen_elsewhere(tmp_path: Path) -> None:
    ids = read_pool(configure(tmp_path))._run.folder.read_table("pool.parquet")["id"].to_pylist()
    chosen = [ids[2], ids[3], ids[0]]  # the second of them is labelled already
    controller = read_pool(configure(tmp_path, name="chosen", selection={"ids": chosen}))
    controller.picks.select(1)
    picks = controller._run.folder.read_table("rounds/001/selection.parquet").to_pylist()
    assert [(row["id"], row["rank"]) for row in picks] == [(ids[2], 1), (ids[0], 2)]
    with pytest.raises(UserError, match="'stranger' is no example of the pool"):
        read_pool(configure(tmp_path, name="wrong", selection={"ids": [ids[0], "stranger"]}))
    with pytest.raises(UserError, match="names 1 examples, none of which is left to label"):
        read_pool(configure(tmp_path, name="nothing", selection={"ids": [ids[3]]}))


def test_training_goes_on_from_the_given_adapter(tmp_path: Path) -> None:
    class Asked(Exception):
        pass

    def train(*_: Any, start_from: Stored | None, **named: Any) -> Any:
        raise Asked(None if start_from is None else str(start_from.local()))

    given = tmp_path / "given"
    given.mkdir()
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 32}
    (given / "adapter_config.json").write_text(json.dumps(settings))
    (given / "adapter_model.safetensors").write_bytes(b"weights")
    for name, adapter, begins in (
        ("plain", None, None),
        ("tuned", str(given), str(tmp_path / "runs/tuned/rounds/000/adapter")),
    ):
        controller = read_pool(
            configure(tmp_path, name=name, model={"id": "m", "adapter": adapter})
        )
        workers = replace(controller._run.workers, train_adapter=train)
        controller.adapters._run = replace(controller._run, workers=workers)
        controller.adapters.copy_start()
        with pytest.raises(Asked) as asked:
            controller.adapters.train(1)
        assert asked.value.args == (begins,)
