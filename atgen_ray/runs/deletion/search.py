"""Where an example lies, and what was said of it."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from atgen_ray.core.records import TOMBSTONE
from atgen_ray.store.additions import INBOX
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import annotations, assignments, requests, tasks

SPLITS = ("pool.parquet", "test.parquet", "target.parquet")
KEYED = (annotations, requests, tasks, assignments)


@dataclass
class Found:
    """What the runs know of some examples: their texts, content hashes and near-duplicates, and the
    runs that have them.
    """

    runs: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)  # inputs
    answers: set[str] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)  # examples with the same content
    duplicates: set[str] = field(default_factory=set)
    rounds: dict[str, int] = field(default_factory=dict)  # the first with a label, by run


def find_examples(
    journal: Journal, storage: str, ids: frozenset[str], annotator: str | None, runs: Iterable[str]
) -> Found:
    """Return where `ids` lie in `runs`; with `annotator` only what that one said of them."""
    found = Found()
    for run in runs:
        known = _search_rows(journal, run, ids, annotator, found)
        if annotator is None:
            known |= _search_files(RunFolder(storage, run), ids, found)
        if known:
            found.runs.append(run)
    return found


def _search_files(folder: RunFolder, ids: frozenset[str], found: Found) -> bool:
    wanted = pa.array(sorted(ids), pa.string())
    known = False
    contents = set[str]()
    tables = list_tables(folder)
    for rel in tables:
        for row in folder.read_rows(rel, ids, ["id", "text", "content"]):
            known = True
            if row["content"] != TOMBSTONE:
                found.texts.add(row["text"])
                contents.add(row["content"])
    for rel in tables if contents else ():
        for part in folder.scan_table(rel, ["id", "content", "duplicate_of"]):
            others = part.filter(pc.invert(pc.is_in(part["id"], wanted)))
            same = others.filter(pc.is_in(others["content"], pa.array(contents, pa.string())))
            found.shared.update(same["id"].to_pylist())
            near = others.filter(pc.is_in(others["duplicate_of"], wanted))
            found.duplicates.update(near["id"].to_pylist())
            contents -= set(same["content"].to_pylist())
    found.contents |= contents
    answered = ["gold.parquet"] if folder.exists("gold.parquet") else []
    answered += folder.list(INBOX)
    for rel in answered:
        for row in folder.read_rows(rel, ids, ["id", "references"]):
            found.answers.update(row["references"])
    return known


def list_tables(folder: RunFolder) -> list[str]:
    """Return the tables that have examples with their texts: the splits, and what waits for the
    pool.
    """
    return [*filter(folder.exists, SPLITS), *folder.list(INBOX)]


def _search_rows(
    journal: Journal, run: str, ids: frozenset[str], annotator: str | None, found: Found
) -> bool:
    known = False
    with journal.database.reading() as connection:
        for table in KEYED:
            mine = (table.c.run == run) & table.c.example_id.in_(sorted(ids))
            if annotator is not None:
                who = annotator.removeprefix("human/") if table is assignments else annotator
                if table is tasks:
                    continue
                mine &= table.c.annotator == who
            for row in connection.execute(sa.select(table).where(mine)).mappings():
                known = True
                if table is annotations:
                    first = min(row["round"], found.rounds.get(run, row["round"]))
                    found.rounds[run] = first
                    found.answers.add(row["text"])
                elif table is assignments:
                    found.answers.update(filter(None, (row["text"], row["draft"], row["note"])))
                elif table is tasks:
                    found.texts.add(row["input"])
                    found.answers.update(_read_answers(row))
    return known


def _read_answers(task: sa.RowMapping) -> Iterable[str]:
    """Yield what models, admins and gold items said of a task."""
    for name in ("suggestion", "first", "decision"):
        with suppress(TypeError, KeyError):
            if isinstance(text := task[name]["text"], str):
                yield text
