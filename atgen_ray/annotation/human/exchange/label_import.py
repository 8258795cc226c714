"""Import of existing labels from a file into a run whose annotator is human."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from atgen_ray.annotation.human.exchange.imported_labels import ImportedLabel, list_labels
from atgen_ray.annotation.human.exchange.label_files import read_rows
from atgen_ray.annotation.human.exchange.label_formats import read_label_rows
from atgen_ray.annotation.human.exchange.pool_index import PoolIndex
from atgen_ray.annotation.human.task_store import (
    IMPORTED,
    TaskConflictError,
    TaskStore,
    is_closed,
    open_task_store,
)
from atgen_ray.store.changes import audited
from atgen_ray.store.existing import open_runs
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import annotations, assignments, tasks

UNKNOWN = "the pool has no such example"
PART = 400  # examples whose rows are read with one statement


@dataclass
class _Outcome:
    imported: int = 0
    known: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    unknown: int = 0
    conflicting: int = 0

    def refuse(self, place: int, reason: str) -> None:
        self.refused.append({"place": place, "reason": reason})
        self.unknown += reason == UNKNOWN
        self.conflicting += reason != UNKNOWN


def import_labels(
    journal: Journal,
    run: str,
    texts: Mapping[str, str] | PoolIndex,
    labels: Sequence[ImportedLabel],
    rehearse: bool = False,
) -> dict[str, Any]:
    """Store labels as the answers of those who made them; nobody is paid for them.

    The label of an example that nobody was asked about joins the labelled set with the next labels
    that the run takes. Several labels of such an example are answers of several people: they are
    compared as any others, and go to dispute where they differ too much.

    Args:
        texts: the user turn of every example of the pool, by id.
        rehearse: only tell what would happen.

    Returns:
        How many were `imported`, how many were there before (`known`), and those `refused`: the
        place in `labels` from 0, or in their file, and the reason. `unknown` of these are in no
        pool, and `conflicting` ones are labelled already or have another answer.

    Raises:
        TaskUnknownError, TaskConflictError: no such run, or none that people label.
    """
    task_store = open_task_store(journal, run)
    index = texts if isinstance(texts, PoolIndex) else PoolIndex(texts)
    outcome = _Outcome()
    found: dict[str, list[tuple[int, ImportedLabel]]] = defaultdict(list)
    for at, label in enumerate(labels):
        place = at if label.place is None else label.place
        id_ = index.find(label)
        if id_ is None:
            outcome.refuse(place, UNKNOWN)
        else:
            found[id_].append((place, label))
    if rehearse:
        with journal.database.reading() as connection:
            _sort_labels(task_store, connection, found, outcome)
    else:
        # One transaction for all labels: the run's lock is taken once, and a kill imports none.
        with journal.run_transaction(run) as connection:
            now = journal.database.clock(connection)
            fresh = _sort_labels(task_store, connection, found, outcome)
            _enter(task_store, connection, fresh, index.texts, now)
    outcome.refused.sort(key=lambda each: each["place"])
    return dict(vars(outcome))


def _sort_labels(
    task_store: TaskStore,
    connection: sa.Connection,
    found: Mapping[str, Sequence[tuple[int, ImportedLabel]]],
    outcome: _Outcome,
) -> dict[str, list[ImportedLabel]]:
    """Return the labels that are new, by example, and count the others."""
    fresh: dict[str, list[ImportedLabel]] = {}
    for ids in _list_parts([*found]):
        rows = _find_rows(task_store, connection, ids)
        for id_ in ids:
            task, before, labelled = rows[id_]
            closed = labelled if task is None else _is_settled(task)
            said = dict(before)
            for place, label in found[id_]:
                known = said.get(label.annotator)
                if known == label.text:
                    outcome.known += 1
                elif label.annotator in said:
                    reason = f"{label.annotator} works on it, or gave another answer"
                    outcome.refuse(place, reason)
                elif closed:
                    outcome.refuse(place, "it is labelled already")
                else:
                    said[label.annotator] = label.text
                    fresh.setdefault(id_, []).append(label)
                    outcome.imported += 1
    return fresh


# A task, what people submitted by name (None: they work on it), and whether the run has a label,
# for instance one that it copied from another run.
_Rows = tuple[sa.RowMapping | None, dict[str, str | None], bool]


def _find_rows(
    task_store: TaskStore, connection: sa.Connection, ids: Sequence[str]
) -> dict[str, _Rows]:
    """Return what the journal has of the examples `ids`."""
    mine = task_store.mine & tasks.c.example_id.in_(ids)
    found = {
        row["example_id"]: row
        for row in connection.execute(sa.select(tasks).where(mine)).mappings()
    }
    here = (assignments.c.run == task_store.run) & assignments.c.example_id.in_(ids)
    given: dict[str, dict[str, str | None]] = {id_: {} for id_ in ids}
    for row in connection.execute(sa.select(assignments).where(here)).mappings():
        text = row["text"] if row["state"] == "submitted" else None
        given[row["example_id"]][row["annotator"]] = text
    own = (annotations.c.run == task_store.run) & annotations.c.example_id.in_(ids)
    labelled = set(connection.execute(sa.select(annotations.c.example_id).where(own)).scalars())
    return {id_: (found.get(id_), given[id_], id_ in labelled) for id_ in ids}


def _is_settled(task: sa.RowMapping) -> bool:
    return is_closed(task) or task["decision"] is not None or task["state"] == "answered"


def _enter(
    task_store: TaskStore,
    connection: sa.Connection,
    fresh: Mapping[str, Sequence[ImportedLabel]],
    texts: Mapping[str, str],
    now: float,
) -> None:
    """Store new labels as answers."""
    for ids in _list_parts([*fresh]):
        there = task_store.mine & tasks.c.example_id.in_(ids)
        asked = set(connection.execute(sa.select(tasks.c.example_id).where(there)).scalars())
        # Round 0: the run did not ask for these labels, so no round's tasks include them.
        added = [
            {
                "run": task_store.run,
                "example_id": id_,
                "round": 0,
                "rank": 0,
                "wanted": len(fresh[id_]),
                "input": texts[id_],
                "state": "open",
                "changed": now,
            }
            for id_ in ids
            if id_ not in asked
        ]
        if added:
            connection.execute(sa.insert(tasks), added)
        for id_ in asked:
            # All answers of the file count, also more than the run asks for: they cost nothing.
            wanted = task_store.count_busy(connection, id_, "", now) + len(fresh[id_])
            more = task_store.mine & (tasks.c.example_id == id_) & (tasks.c.wanted < wanted)
            connection.execute(sa.update(tasks).where(more).values(wanted=wanted))
        answers = [
            {
                "run": task_store.run,
                "example_id": id_,
                "annotator": label.annotator,
                "state": "submitted",
                "note": IMPORTED,
                "text": label.text,
                "seconds": label.seconds,
                "leased": now,
                "until": now,
                # The order of the file is the order of the answers.
                "answered": now + place * 1e-6,
                "revision": 0,
            }
            for id_ in ids
            for place, label in enumerate(fresh[id_])
        ]
        connection.execute(sa.insert(assignments), answers)
        for id_ in ids:
            task_store.settle(connection, id_, now)


def _list_parts(ids: Sequence[str]) -> list[Sequence[str]]:
    """Return the ids in parts that a statement takes as parameters."""
    return [ids[start : start + PART] for start in range(0, len(ids), PART)]


def import_file(
    name: str,
    storage: str,
    database_url: SecretStr | None,
    file: Path,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    rehearse: bool = False,
) -> dict[str, Any]:
    """Import the labels in `file`; see `import_labels` and `read_label_rows`.

    Raises:
        UserError: the run is unknown, has no people or no pool yet, or the file cannot be read as
            labels.
    """
    called = f"FILE is '{file}'"
    found = read_label_rows(read_rows(file, called), called, format, mapping)
    with open_runs(storage, database_url) as journal:
        journal.run(name)
        if rehearse:
            done = bring_labels(journal, storage, name, list_labels(found), rehearse)
        else:
            with audited(journal.database, "import labels", run=name) as said:
                done = bring_labels(journal, storage, name, list_labels(found), rehearse)
                said["imported"] = done["imported"]
    return done | {"format": found.format, "passed": sum(row.passed for row in found.rows)}


def bring_labels(
    journal: Journal,
    storage: str,
    name: str,
    labels: Sequence[ImportedLabel],
    rehearse: bool = False,
) -> dict[str, Any]:
    """Import `labels` for the examples of the run's pool; see `import_labels`.

    Raises:
        TaskUnknownError, TaskConflictError: no such run, one without people as annotators, or one
            that has not read its pool yet.
    """
    open_task_store(journal, name)
    folder = RunFolder(storage, name)
    if not folder.exists("pool.parquet"):
        raise TaskConflictError(
            f"run '{name}' has not read its pool yet, expected `atgen-ray run` first"
        )
    rows = folder.read_table("pool.parquet", columns=["id", "text"]).to_pylist()
    rows = [row for row in rows if row["text"]]  # an example that was deleted has none
    config = journal.run(name).config
    template = (config.get("prompt") or {}).get("template") or "{{ input }}"
    column = (config.get("data") or {}).get("input") or "input"
    index = PoolIndex({row["id"]: row["text"] for row in rows}, template, column)
    return import_labels(journal, name, index, labels, rehearse)
