"""Takeover: a new run copies pool, answers, labels and ledger of another run up to a round, and
continues in its own way.

The other run, the source, is only read. Its rounds up to the named one are over, so the copy is
always the same: a takeover that was killed starts again from its beginning until its one
transaction has committed.

What the source paid is `inherited` in the ledger of the new run. It counts against no budget in
dollars; copied labels and rounds count in `stopping.labels` and `stopping.rounds` like the run's
own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.config import RunConfig, read_source
from atgen_ray.config.changes import find_changes
from atgen_ray.config.loading import dump_config, renew_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.money import to_nano
from atgen_ray.core.records import DELETED, GIVEN, INHERITED, Annotation
from atgen_ray.store.events import STEP, enter_event
from atgen_ray.store.journal import Journal
from atgen_ray.store.labels import enter_annotations
from atgen_ray.store.layout import round_folder
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import read_cost
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import FILES, StepOutputs
from atgen_ray.store.tables import dead_letters, ledger, requests, shards
from atgen_ray.store.totals import count_inherited

KEY = "fork_from"
TABLES = ("pool.parquet", "gold.parquet", "test.parquet", "context.parquet")
OWN_DATA = ("data.target", "data.target_split")  # which a run may have of its own


def settle_source(config: RunConfig, journal: Journal) -> RunConfig:
    """Return the configuration with the round to take over filled in where only the run was named.

    Raises:
        UserError: the source is no run of this journal and storage, has no such round, or has
            another pool.
    """
    if config.fork_from is None:
        return config
    name, _, given = config.fork_from.partition(":")
    source = _find_source(config, journal, name)
    annotated = sorted(
        at or 0 for at, step in journal.committed_steps(name) if step == "annotation"
    )
    if not annotated:
        raise UserError(
            f"{KEY} is '{config.fork_from}', but run '{name}' has no round whose labels are "
            f"complete"
        )
    round = int(given) if given else annotated[-1]
    if round not in annotated:
        raise UserError(
            f"{KEY} is '{config.fork_from}', expected a round from 1 to {annotated[-1]} after the "
            f"colon"
        )
    _check_pool(config, name, source)
    if config.is_design and round > 1:
        raise UserError(
            f"annotator.mode is 'design', which has one round, but {round} rounds of run '{name}' "
            f"are taken over: "
            "expected annotator.mode=rounds"
        )
    return config.model_copy(update={KEY: f"{name}:{round}"})


def take_over(config: RunConfig, journal: Journal, lease: Lease, folder: RunFolder) -> None:
    """Copy everything up to the source's round: first the files, then the journal's rows in one
    transaction.

    Copied are pool, answers and test set, selections and labels, dead letters of the pool and of
    annotation, responses of annotating models, and the ledger. Not copied is what depends on the
    source's model: outputs, adapters, scores.
    """
    name, last = read_source(config)
    source = RunFolder(config.storage, name)
    outputs = StepOutputs(folder, lease)
    out = outputs.open(0, "takeover")
    rounds = range(1, last + 1)
    picks = [f"{round_folder(at)}/selection.parquet" for at in rounds]
    for path in (*TABLES, *picks):
        if source.exists(path):
            out.write_table(path, source.read_table(path))
    labels = [
        (at, label if GIVEN in label.provenance else _inherit(name, at, label))
        for at, label in journal.annotations(name)
        if 1 <= at <= last or (at == 0 and GIVEN in label.provenance)  # not those of an audit
    ]
    for at in rounds:
        rows = [asdict(label) for of, label in labels if of == at]
        out.write_jsonl(f"{round_folder(at)}/annotations.jsonl", rows)
    dollars = {at: paid for at, paid in read_cost(journal, name).items() if at <= last}
    # The files come first: once the steps are in the journal their outputs must exist. The steps
    # share a place.
    with journal.leased_transaction(lease) as connection:
        for at in range(last + 1):
            enter_annotations(
                journal.database,
                connection,
                config.name,
                at,
                [label for of, label in labels if of == at],
            )
        _copy_dead_letters(connection, name, config.name, last)
        _copy_requests(connection, name, config.name, last)
        _copy_ledger(connection, name, config.name, last)
        _enter_other(connection, config.name, dollars)
        count_inherited(connection, config.name)
        payload = {
            "run": name,
            "round": last,
            "labels": len(labels),
            "dollars": round(sum(dollars.values()), 9),
        }
        enter_event(journal.database, connection, config.name, INHERITED, last, payload=payload)
        _enter_steps(journal, connection, config.name, rounds, outputs.describe(0, "takeover", out))
    outputs.publish(journal.steps(config.name))
    _write_labels(folder, labels)


def _find_source(config: RunConfig, journal: Journal, name: str) -> dict[str, Any]:
    """Return the source's configuration. Raise UserError where the source or its pool does not
    exist.
    """
    if name == config.name:
        raise UserError(
            f"{KEY} is '{config.fork_from}', which is this run itself, expected another one"
        )
    try:
        source = journal.run(name)
    except UserError as error:
        raise UserError(
            f"{KEY} is '{config.fork_from}', expected a run of the same journal: {error}"
        ) from None
    if not RunFolder(config.storage, name).exists(TABLES[0]):
        raise UserError(
            f"storage is '{config.storage}', expected the one that holds the pool of run "
            f"'{name}', too"
        )
    return source.config


def _check_pool(config: RunConfig, name: str, source: dict[str, Any]) -> None:
    now = dump_config(config)
    before = renew_config(source)
    changes = [
        change
        for change in find_changes(before["data"], now["data"], None, "data")
        if change.key not in OWN_DATA
    ]
    changes += find_changes(
        before["prompt"]["template"], now["prompt"]["template"], None, "prompt.template"
    )
    for change in changes:
        raise UserError(
            f"{change.key} is {change.now!r}, expected {change.before!r} as in run '{name}', "
            f"whose pool is taken over"
        )


def _inherit(run: str, round: int, label: Annotation) -> Annotation:
    """Return the label at no cost, with where it was bought; one that was inherited before keeps
    that.
    """
    bought = {"run": run, "round": round, "dollars": label.dollars}
    return replace(label, dollars=0.0, provenance={INHERITED: bought} | label.provenance)


def _write_labels(folder: RunFolder, labels: Sequence[tuple[int, Annotation]]) -> None:
    pool = folder.read_table(TABLES[0], columns=["id", "text"]).to_pylist()
    inputs = {row["id"]: row["text"] for row in pool}
    lines = [{"round": at, "input": inputs[label.id], **asdict(label)} for at, label in labels]
    folder.write_jsonl("labeled.jsonl", lines)


def _copy_dead_letters(connection: sa.Connection, source: str, run: str, last: int) -> None:
    """Copy unusable rows, except those that only the source's model failed on."""
    upto = dead_letters.c.round.is_(None) | (dead_letters.c.round <= last)
    mine = (
        (dead_letters.c.run == source)
        & upto
        & dead_letters.c.step.in_(("pool", "annotation", DELETED))
    )
    columns = [column for column in dead_letters.c if column.name not in ("id", "run")]
    _copy(connection, dead_letters, columns, mine, {"run": run}, order=dead_letters.c.id)


def _copy_requests(connection: sa.Connection, source: str, run: str, last: int) -> None:
    """Copy requests to annotating models and judges with their responses, so that none is sent
    again.
    """
    mine = (shards.c.run == source) & (shards.c.round <= last) & shards.c.done
    hashes = sa.select(shards.c.hash).where(mine)
    theirs = (requests.c.run == source) & requests.c.shard.in_(hashes)
    shard_columns = [column for column in shards.c if column.name != "run"]
    request_columns = [column for column in requests.c if column.name != "run"]
    _copy(connection, shards, shard_columns, mine, {"run": run})
    _copy(connection, requests, request_columns, theirs, {"run": run})
    recount_requests(connection, run)


def _copy_ledger(connection: sa.Connection, source: str, run: str, last: int) -> None:
    mine = (ledger.c.run == source) & (ledger.c.round <= last) & ledger.c.paid.is_not(None)
    columns = [ledger.c[name] for name in ("key", "round", "annotator", "example_id")]
    inherited = (ledger.c.paid + sa.func.coalesce(ledger.c.inherited, 0)).label("inherited")
    _copy(connection, ledger, [*columns, inherited], mine, {"run": run, "held": 0, "paid": 0})


def _enter_other(connection: sa.Connection, run: str, dollars: Mapping[int, float]) -> None:
    """Record what the source paid in a round without an entry in its ledger, such as labels with a
    price of their own.
    """
    query = sa.select(ledger.c.round, sa.func.sum(ledger.c.inherited)).where(ledger.c.run == run)
    entered = {
        at: int(nano or 0) for at, nano in connection.execute(query.group_by(ledger.c.round))
    }
    rest = {at: to_nano(paid) - entered.get(at, 0) for at, paid in dollars.items()}
    rows = [
        {
            "run": run,
            "annotator": INHERITED,
            "example_id": "",
            "held": 0,
            "paid": 0,
            "key": f"{INHERITED}-{at}",
            "round": at,
            "inherited": nano,
        }
        for at, nano in rest.items()
        if nano > 1  # rounding may leave a billionth
    ]
    if rows:
        connection.execute(sa.insert(ledger), rows)


def _copy(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[sa.ColumnElement[Any]],
    which: sa.ColumnElement[bool],
    values: Mapping[str, Any],
    order: sa.ColumnElement[Any] | None = None,
) -> None:
    """Copy rows of `table` within the database, with `values` for some of their columns."""
    names = [*values, *(str(column.name) for column in columns)]
    query = sa.select(*(sa.literal(value) for value in values.values()), *columns).where(which)
    connection.execute(
        sa.insert(table).from_select(names, query.order_by(order) if order is not None else query)
    )


def _enter_steps(
    journal: Journal, connection: sa.Connection, run: str, rounds: range, made: Mapping[str, Any]
) -> None:
    """Record the steps that need not be done: reading the pool, selection and annotation. `made`
    describes the files of all of them.
    """
    done: list[tuple[int, str, tuple[str, ...]]] = [(0, "pool", TABLES)]
    for at in rounds:
        done.append((at, "selection", (f"{round_folder(at)}/selection.parquet",)))
        done.append((at, "annotation", (f"{round_folder(at)}/annotations.jsonl",)))
    for at, step, paths in done:
        files = {path: made[FILES][path] for path in paths if path in made[FILES]}
        payload = {
            "output": paths[0],
            "rows": 0,
            "reused_seconds": 0.0,
            INHERITED: True,
            **made,
            FILES: files,
        }
        enter_event(journal.database, connection, run, STEP, at, step, payload, 0.0)
