"""The journal on both databases: order, and everything once."""

import math
import time
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity


def test_creating_a_run_again_finds_the_first(journal: Journal) -> None:
    name = journal.create_run(f"run-{uuid4().hex}", {"seed": 1}, "digest").name
    again = journal.create_run(name, {"seed": 2}, "other digest")
    assert again == journal.run(name)
    assert (again.config, again.digest, again.status) == ({"seed": 1}, "digest", "created")
    assert abs(again.created - time.time()) < 60
    assert name in [record.name for record in journal.runs()]


@pytest.mark.parametrize("name", ["", "../x", "UPPER", "a" * 64, "a\n", "a\0", "%2e%2e"])
def test_a_bad_run_name_is_refused(journal: Journal, name: str) -> None:
    with pytest.raises(UserError, match="run name is"):
        journal.create_run(name, {}, "")


def test_an_unknown_run_is_named_with_the_nearest(journal: Journal) -> None:
    journal.create_run("sonnets", {}, "")
    for use in (journal.run, lambda name: journal.acquire(name, ProcessIdentity("a"), 60)):
        with pytest.raises(UserError, match="run 'sonets' is unknown; did you mean 'sonnets'"):
            use("sonets")


def test_status_is_changed_by_the_holder_of_the_lease(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    time.sleep(0.01)  # the clock of SQLite ticks in milliseconds
    journal.set_status(lease, "running")
    record = journal.run(run)
    assert record.status == "running"
    assert record.updated > record.created


def test_a_step_is_committed_once(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    first = journal.append(
        lease, "step", 1, "scoring", {"rows": 3, "mean": math.nan, "at": (1, 2)}, seconds=1.5
    )
    assert first.payload == {"rows": 3, "mean": None, "at": [1, 2]}
    assert journal.append(lease, "step", 1, "scoring", {"rows": 4}) == first
    pool = journal.append(lease, "step", None, "pool")
    assert journal.append(lease, "step", None, "pool") == pool
    journal.append(lease, "progress", 1, "scoring")
    journal.append(lease, "progress", 1, "scoring")
    assert [event.sequence for event in journal.events(run)] == [1, 2, 3, 4]
    assert journal.events(run, after=1)[0] == pool
    assert journal.committed_steps(run) == {(1, "scoring"): first, (None, "pool"): pool}
    with pytest.raises(ValueError, match="names its step"):
        journal.append(lease, "step", 1)


def test_the_first_annotation_wins(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    first = Annotation("x", "old", "ann", 0.25, {"model": "m", "tokens": 7})
    assert journal.record_annotations(lease, 2, [first, Annotation("x", "twice", "ann", 9.0)]) == 1
    others = [
        Annotation("x", "new", "ann", 9.0),
        Annotation("x", "hers", "bea", 0.5),
        Annotation("a", "", "ann"),
    ]
    assert journal.record_annotations(lease, 1, others) == 2
    assert (
        journal.record_annotations(lease, 1, others)
        == journal.record_annotations(lease, 1, [])
        == 0
    )
    assert journal.annotations(run) == [(1, others[1]), (1, others[2]), (2, first)]
    assert journal.dollars(run) == 0.75
    assert journal.dollars(journal.create_run(f"run-{uuid4().hex}", {}, "").name) == 0.0


def test_annotations_keep_the_order_they_came_in(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    labels = [Annotation(uuid4().hex, f"text {i}", "ann") for i in range(3000)]
    assert journal.record_annotations(lease, 1, labels) == 3000
    assert [label for _, label in journal.annotations(run)] == labels


@pytest.mark.parametrize("dollars", [-0.01, math.nan, math.inf])
def test_a_price_that_is_no_amount_is_refused(journal: Journal, run: str, dollars: float) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    with pytest.raises(ValueError, match="dollars"):
        journal.record_annotations(
            lease, 1, [Annotation("x", "fine", "ann"), Annotation("y", "", "ann", dollars)]
        )
    assert journal.annotations(run) == []


def test_any_text_can_be_stored(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    strange = "nul \0, lone surrogate \ud800, line \u2028, 漢字, '; DROP TABLE runs; --"
    label, letter = (
        Annotation("x", strange, "ann", 0.0, {strange: strange}),
        DeadLetter("x", "scoring", strange),
    )
    journal.record_annotations(lease, 1, [label])
    assert journal.record_dead_letters(lease, None, [letter]) == 1
    journal.append(lease, "note", payload={"text": strange})
    assert journal.annotations(run) == [(1, label)]
    assert journal.dead_letters(run) == [(None, letter)]
    assert journal.events(run)[0].payload == {"text": strange}


def test_a_dead_letter_is_kept_once_per_step(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    first, other = DeadLetter("x", "scoring", "too long"), DeadLetter("x", "training", "empty")
    assert journal.record_dead_letters(lease, 1, [first]) == 1
    assert journal.record_dead_letters(lease, 2, [DeadLetter("x", "scoring", "again"), other]) == 1
    assert journal.dead_letters(run) == [(1, first), (2, other)]


def test_the_journal_lies_in_the_storage_by_default(tmp_path: Path) -> None:
    storage = tmp_path / "odd? %41 #name"
    journal = open_journal(str(storage))
    journal.create_run("sonnets", {}, "")
    assert (storage / "atgen.db").is_file()
    assert len(open_journal(f"file://{storage}").runs()) == 1


def test_remote_storage_needs_a_database_url(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="database_url is null but storage is memory://"):
        open_journal("memory://bucket")
    url = SecretStr(f"sqlite:///{tmp_path / 'own.db'}")
    assert open_journal("memory://bucket", url).runs() == []
