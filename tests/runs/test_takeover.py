"""A run that takes over pool, labels and ledger of another: nothing is paid twice, and the other is
only read.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import sqlalchemy as sa

from atgen_ray.config import RunConfig, StoppingConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import LeaseLostError, UserError
from atgen_ray.core.records import (
    GOLD_SCHEMA,
    POOL_SCHEMA,
    SELECTION_SCHEMA,
    Annotation,
    DeadLetter,
)
from atgen_ray.runs.driver import check_entry, enter_run
from atgen_ray.runs.state import RunState
from atgen_ray.runs.takeover import settle_source, take_over
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import Entry, Ledger, read_balance, read_cost, read_inherited
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import TABLES, requests, shards

PAID = 250_000_000  # billionths of a dollar


def configure(folder: Path, name: str, **more: Any) -> RunConfig:
    data = {"pool": "pool.jsonl", "references": "answer"}
    tree = {"name": name, "storage": str(folder), "data": data, "model": {"id": "m"}}
    return parse_config(tree | more)


def begin(journal: Journal, config: RunConfig) -> tuple[Lease, RunFolder]:
    journal.create_run(config.name, dump_config(config), "")
    return journal.acquire(config.name, ProcessIdentity(config.name), 60), RunFolder(
        config.storage, config.name
    )


def label(journal: Journal, lease: Lease, folder: RunFolder, round: int, ids: list[str]) -> None:
    """A round in which the first of `ids` is bought by the ledger, and others have a price of their
    own.
    """
    picks = [{"id": id_, "rank": at, "score": 1.0, "parts": {}} for at, id_ in enumerate(ids, 1)]
    folder.write_table(
        f"rounds/{round:03d}/selection.parquet", pa.Table.from_pylist(picks, SELECTION_SCHEMA)
    )
    journal.append(lease, "step", round, "selection")
    ledger = Ledger(lease.run, StoppingConfig())
    with journal.leased_transaction(lease) as connection:
        ledger.reserve(connection, round, "api/m", [Entry(f"request-{ids[0]}", ids[0], 2 * PAID)])
        ledger.settle(connection, {f"request-{ids[0]}": PAID})
        common = {"run": lease.run, "annotator": "api/m", "round": round, "time": 1.0}
        shard = {
            "hash": f"shard-{round}",
            "size": 1,
            "status": "sent",
            "done": True,
            "remote": None,
        }
        connection.execute(sa.insert(shards).values(common | shard))
        asked = {
            "custom_id": f"request-{ids[0]}",
            "shard": f"shard-{round}",
            "example_id": ids[0],
            "vote": 0,
        }
        asked |= {
            "repair": 0,
            "attempt": 0,
            "prompt_hash": "h",
            "state": "answered",
            "response": {"said": ids[0]},
        }
        connection.execute(sa.insert(requests).values(common | asked))
    journal.record_annotations(
        lease,
        round,
        [Annotation(id_, f"label {id_}", "api/m", 0.25, {"model": "m"}) for id_ in ids],
    )
    journal.record_dead_letters(
        lease, round, [DeadLetter(f"bad-{round}", "annotation", "no answer was usable")]
    )
    journal.record_dead_letters(
        lease, round, [DeadLetter(f"weak-{round}", "generation", "the engine failed")]
    )
    journal.append(lease, "step", round, "annotation")


@pytest.fixture
def source(journal: Journal, tmp_path: Path) -> RunConfig:
    """A run of three rounds with two labels each, in the middle of a fourth."""
    config = configure(tmp_path, f"source-{uuid4().hex[:8]}")
    lease, folder = begin(journal, config)
    ids = [f"e{at}" for at in range(10)]
    rows = [
        {"id": id_, "row": at, "text": f"text {id_}", "content": id_} for at, id_ in enumerate(ids)
    ]
    folder.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
    folder.write_table(
        "gold.parquet", pa.Table.from_pylist([{"id": "e0", "references": ["a"]}], GOLD_SCHEMA)
    )
    journal.append(lease, "step", 0, "pool")
    for round in (1, 2, 3):
        label(journal, lease, folder, round, ids[2 * round - 2 : 2 * round])
    journal.append(lease, "step", 4, "selection")
    journal.record_annotations(lease, 4, [Annotation("e9", "half a round", "api/m", 0.25)])
    lease.release()
    return config


def dump(journal: Journal, run: str) -> dict[str, list[dict[str, Any]]]:
    """Everything in the database about a run, but for the numbers of rows and the times of
    entry.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with journal.database.reading() as connection:
        for name, table in TABLES.tables.items():
            if "run" in table.c:
                mine = sa.select(table).where(table.c.run == run)
                rows = connection.execute(mine.order_by(*table.primary_key)).mappings()
                without = {"id", "time", "expires"}
                found[name] = [
                    {key: value for key, value in row.items() if key not in without} for row in rows
                ]
    return found


def fork(
    journal: Journal, source: RunConfig, which: str = "", **more: Any
) -> tuple[RunConfig, Lease, RunFolder]:
    config = configure(
        Path(source.storage), f"fork-{uuid4().hex[:8]}", fork_from=source.name + which, **more
    )
    config = settle_source(config, journal)
    return config, *begin(journal, config)


def test_labels_are_taken_over_at_no_cost_with_where_they_were_bought(
    journal: Journal, source: RunConfig
) -> None:
    before = dump(journal, source.name)
    config, lease, folder = fork(journal, source, ":2")
    take_over(config, journal, lease, folder)
    labels = journal.annotations(config.name)
    assert [(at, label.id, label.text, label.dollars) for at, label in labels] == [
        (1, "e0", "label e0", 0.0),
        (1, "e1", "label e1", 0.0),
        (2, "e2", "label e2", 0.0),
        (2, "e3", "label e3", 0.0),
    ]
    bought = {"run": source.name, "round": 2, "dollars": 0.25}
    assert labels[3][1].provenance == {"model": "m", "inherited": bought}
    assert read_balance(journal, config.name).paid == 0
    assert read_cost(journal, source.name)[1] == 0.5
    assert dump(journal, source.name) == before  # only read
    lines = folder.read_jsonl("labeled.jsonl")
    assert [line["input"] for line in lines] == ["text e0", "text e1", "text e2", "text e3"]
    assert [row["id"] for row in folder.read_jsonl("rounds/002/annotations.jsonl")] == ["e2", "e3"]
    assert folder.read_table("pool.parquet").num_rows == 10
    assert not folder.exists("rounds/003/selection.parquet")


def test_what_others_paid_counts_against_no_budget(journal: Journal, source: RunConfig) -> None:
    config, lease, folder = fork(journal, source, ":2")
    take_over(config, journal, lease, folder)
    assert read_inherited(journal, config.name) == {1: 0.5, 2: 0.5}
    with journal.leased_transaction(lease) as connection:
        room = Ledger(config.name, StoppingConfig(dollars=0.3)).fit(connection, 3, [PAID, PAID])
    assert room == (1, "run")


def test_answers_and_dead_letters_of_annotation_come_along(
    journal: Journal, source: RunConfig
) -> None:
    config, lease, folder = fork(journal, source, ":2")
    take_over(config, journal, lease, folder)
    answered = dump(journal, config.name)["requests"]
    assert [(row["example_id"], row["response"]) for row in answered] == [
        ("e0", {"said": "e0"}),
        ("e2", {"said": "e2"}),
    ]
    assert [letter.id for _, letter in journal.dead_letters(config.name)] == ["bad-1", "bad-2"]
    candidates = RunState(config, journal, folder).candidates(3)
    assert candidates.to_pylist() == ["e4", "e5", "e6", "e7", "e8", "e9"]


def test_the_last_complete_round_is_meant_where_none_is_named(
    journal: Journal, source: RunConfig
) -> None:
    config, lease, folder = fork(journal, source)
    assert config.fork_from == f"{source.name}:3"
    take_over(config, journal, lease, folder)
    (event,) = [event for event in journal.events(config.name) if event.kind == "inherited"]
    assert event.payload == {"run": source.name, "round": 3, "labels": 6, "dollars": 1.5}


def test_the_same_command_again_means_the_round_of_the_first_time(
    journal: Journal, source: RunConfig
) -> None:
    config = configure(Path(source.storage), f"fork-{uuid4().hex[:8]}", fork_from=source.name)
    assert enter_run(config, journal).fork_from == f"{source.name}:3"
    lease = journal.acquire(source.name, ProcessIdentity("again"), 60)
    journal.append(lease, "step", 4, "annotation")  # the source goes on
    assert enter_run(config, journal).fork_from == f"{source.name}:3"
    with pytest.raises(UserError, match="exists with fork_from"):
        enter_run(config.model_copy(update={"fork_from": f"{source.name}:4"}), journal)


def test_a_run_that_was_forked_can_be_forked(journal: Journal, source: RunConfig) -> None:
    first, lease, folder = fork(journal, source, ":1")
    take_over(first, journal, lease, folder)
    label(journal, lease, folder, 2, ["e7"])
    second, lease, folder = fork(journal, first, ":2")
    take_over(second, journal, lease, folder)
    where = [label.provenance["inherited"]["run"] for _, label in journal.annotations(second.name)]
    assert where == [source.name, source.name, first.name]
    assert read_inherited(journal, second.name) == {1: 0.5, 2: 0.25}


def test_a_take_over_that_was_killed_is_done_again(journal: Journal, source: RunConfig) -> None:
    killed, lease, folder = fork(journal, source, ":2")
    journal.acquire(killed.name, ProcessIdentity("another"), 60, takeover=True)
    with pytest.raises(LeaseLostError):  # after the files, before the transaction
        take_over(killed, journal, lease, folder)
    assert journal.events(killed.name) == journal.annotations(killed.name) == []
    lease = journal.acquire(killed.name, ProcessIdentity("third"), 60, takeover=True)
    take_over(killed, journal, lease, folder)
    whole, lease, other = fork(journal, source, ":2")
    take_over(whole, journal, lease, other)

    def told(run: str) -> Any:
        found = {
            name: [{key: value for key, value in row.items() if key != "run"} for row in rows]
            for name, rows in dump(journal, run).items()
            if name != "controllers"
        }
        for event in found["events"]:
            event["payload"].pop("place", None)  # each controller has places of its own
        return found

    assert told(killed.name) == told(whole.name)
    assert folder.read_text("labeled.jsonl") == other.read_text("labeled.jsonl")


def test_a_run_may_go_on_for_a_target_of_its_own(
    journal: Journal, source: RunConfig, tmp_path: Path
) -> None:
    data = {"pool": "pool.jsonl", "references": "answer", "target": "slice.jsonl"}
    config = configure(tmp_path, "aimed", fork_from=source.name, data=data)
    assert settle_source(config, journal).fork_from == f"{source.name}:3"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"data": {"pool": "other.jsonl", "references": "answer"}},
            "data.pool is 'other.jsonl', expected 'pool.jsonl'",
        ),
        (
            {"data": {"pool": "pool.jsonl", "references": "gold"}},
            "data.references is 'gold', expected 'answer'",
        ),
        (
            {"prompt": {"template": "Sort: {{ input }}"}},
            "prompt.template is 'Sort: {{ input }}', expected ",
        ),
        ({"fork_from": "SOURCE:9"}, "fork_from is 'SOURCE:9', expected a round from 1 to 3"),
        ({"fork_from": "SOURCE:4"}, "fork_from is 'SOURCE:4', expected a round from 1 to 3"),
        (
            {"fork_from": "nobody"},
            "fork_from is 'nobody', expected a run of the same journal: run 'nobody' is unknown",
        ),
        ({"fork_from": "SOURCE", "name": "SOURCE"}, "run"),
        (
            {"storage": "elsewhere"},
            "storage is 'elsewhere', expected the one that holds the pool of run 'SOURCE'",
        ),
        ({"annotator": {"type": "human"}}, "annotator.mode is 'design', which has one round"),
    ],
)
def test_what_cannot_be_taken_over_is_one_line(
    journal: Journal,
    source: RunConfig,
    changed: dict[str, Any],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"fork_from": "SOURCE"} | changed
    given = {
        key: value.replace("SOURCE", source.name) if isinstance(value, str) else value
        for key, value in given.items()
    }
    name = given.pop("name", f"fork-{uuid4().hex[:8]}")
    config = configure(tmp_path, name, **given)
    with pytest.raises(UserError) as refused:
        check_entry(config, journal)
    assert str(refused.value).startswith(line.replace("SOURCE", source.name))
    assert "\n" not in str(refused.value)


def test_a_run_without_a_complete_round_has_nothing_to_take_over(
    journal: Journal, tmp_path: Path
) -> None:
    config = configure(tmp_path, f"new-{uuid4().hex[:8]}")
    _, folder = begin(journal, config)
    folder.write_table("pool.parquet", pa.Table.from_pylist([], POOL_SCHEMA))
    other = configure(tmp_path, "other", fork_from=config.name)
    with pytest.raises(UserError, match="has no round whose labels are complete"):
        settle_source(other, journal)


@pytest.mark.parametrize("source", ["Demo", "demo:", "demo:0", "demo:x", "../demo", "a:1:2"])
def test_what_is_no_run_with_a_round_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected RUN or RUN:ROUND, as demo:3"):
        configure(tmp_path, "fork", fork_from=source)
