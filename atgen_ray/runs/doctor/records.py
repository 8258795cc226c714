"""The journal against itself: events without gaps, labels and their requests, sums of money."""

import sqlalchemy as sa

from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.request_totals import has_wrong_sums
from atgen_ray.core.money import NANO
from atgen_ray.runs.doctor.finding import Diagnosis, Finding, name_some
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_records import INTERRUPTED
from atgen_ray.store.tables import (
    annotations,
    controllers,
    dead_letters,
    events,
    ledger,
    requests,
    shards,
    tasks,
)
from atgen_ray.store.totals import find_differences

BACKUP = "restore a whole backup of the journal: rows of one transaction are not all there"

RECOUNT = "--repair computes them anew"


def check_records(journal: Journal, run: str, diagnosis: Diagnosis) -> None:
    """Check everything that the journal has of a run; nothing of it is written."""
    diagnosis.add(*_check_controller(journal, run))
    with journal.database.reading() as connection:
        for check in (_check_events, _check_requests, _check_ledger, _check_labels, _check_totals):
            diagnosis.add(*check(connection, run))


def read_epoch(journal: Journal, run: str) -> int:
    """Return how often the run was taken by a controller."""
    with journal.database.reading() as connection:
        found = sa.select(controllers.c.epoch).where(controllers.c.run == run)
        return int(connection.execute(found).scalar_one())


def _check_controller(journal: Journal, run: str) -> list[Finding]:
    if journal.describe_status(journal.run(run)) != INTERRUPTED:
        return []
    with journal.database.reading() as connection:
        held = connection.execute(sa.select(controllers).where(controllers.c.run == run)).one()
    who = f"process {held.pid} on host '{held.host}'" if held.owner else "nobody"
    return [
        Finding(
            run,
            "dead-controller",
            f"the run is under way by its status, but its controller ({who}) is dead",
            "give the run's command again: it goes on from its last step",
        )
    ]


def _check_events(connection: sa.Connection, run: str) -> list[Finding]:
    mine = events.c.run == run
    counted = sa.select(sa.func.count(), sa.func.max(events.c.sequence)).where(mine)
    count, last = connection.execute(counted).one()
    if count == (last or 0):
        return []
    what = f"{(last or 0) - count} events are missing below number {last}"
    return [Finding(run, "missing-event", what, BACKUP)]


def _check_requests(connection: sa.Connection, run: str) -> list[Finding]:
    """A request and its entry in the ledger come and are settled together."""
    entry = (ledger.c.run == requests.c.run) & (ledger.c.key == requests.c.custom_id)
    mine = requests.c.run == run
    found = []
    unpaid = sa.select(requests.c.custom_id).where(mine & ~sa.exists().where(entry))
    if names := _list(connection, unpaid):
        what = f"{len(names)} requests have no entry in the ledger: {name_some(names)}"
        found.append(Finding(run, "request-without-ledger", what, BACKUP))
    open_request = requests.c.state == "sent"
    apart = sa.select(requests.c.custom_id).where(mine).join(ledger, entry)
    apart = apart.where(open_request == ledger.c.paid.is_not(None))
    if names := _list(connection, apart):
        what = (
            f"{len(names)} requests are open where the ledger has them settled, or the other way "
            f"round: {name_some(names)}"
        )
        found.append(Finding(run, "request-against-ledger", what, BACKUP))
    shard = (shards.c.run == requests.c.run) & (shards.c.hash == requests.c.shard)
    late = sa.select(requests.c.custom_id).where(mine & open_request)
    late = late.join(shards, shard).where(shards.c.done)
    if names := _list(connection, late):
        what = f"{len(names)} requests are open in a batch that is settled: {name_some(names)}"
        found.append(Finding(run, "request-without-answer", what, BACKUP))
    return found


def _check_ledger(connection: sa.Connection, run: str) -> list[Finding]:
    """Money is whole, and held for something that is under way."""
    mine = ledger.c.run == run
    over = sa.select(ledger.c.key).where(mine & (ledger.c.paid > ledger.c.held))
    over = over.where(ledger.c.inherited.is_(None))
    found = []
    if names := _list(connection, over):
        what = f"{len(names)} entries of the ledger cost more than was held: {name_some(names)}"
        do = "compare with the provider's bill: its prices are not those of the configuration"
        found.append(Finding(run, "paid-over-held", what, do))
    return found


def _check_labels(connection: sa.Connection, run: str) -> list[Finding]:
    """A label of a model has an answered request; who paid for an answer got a label or a reason;
    a task that is taken has its label.
    """
    found = []
    mine = annotations.c.run == run
    asked = (requests.c.run == run) & (requests.c.example_id == annotations.c.example_id)
    asked &= requests.c.annotator == annotations.c.annotator
    asked &= requests.c.round == annotations.c.round
    models = sa.select(requests.c.annotator).where(requests.c.run == run).distinct()
    bare = sa.select(annotations.c.example_id).where(
        mine
        & annotations.c.annotator.in_(models)
        & ~sa.exists().where(asked & (requests.c.state == "answered"))
    )
    if names := _list(connection, bare):
        what = f"{len(names)} labels of a model have no answered request: {name_some(names)}"
        found.append(Finding(run, "label-without-receipt", what, BACKUP))
    done = sa.select(events.c.round).where(
        (events.c.run == run) & (events.c.kind == "step") & (events.c.step == "annotation")
    )
    # What was opened again is not yet asked again.
    retried = sa.exists().where((events.c.run == run) & (events.c.kind == "retried"))
    labelled = (annotations.c.run == run) & (annotations.c.example_id == requests.c.example_id)
    buried = (dead_letters.c.run == run) & (dead_letters.c.example_id == requests.c.example_id)
    unused = sa.select(requests.c.example_id).where(
        (requests.c.run == run)
        & (requests.c.state == "answered")
        & requests.c.round.in_(done)
        & ~requests.c.example_id.startswith(JUDGED)
        & ~sa.exists().where(labelled)
        & ~sa.exists().where(buried)
        & ~retried
    )
    if names := _list(connection, unused.distinct()):
        what = (
            f"{len(names)} examples of rounds that are over were answered and have neither a label "
            f"nor a dead letter: {name_some(names)}"
        )
        found.append(Finding(run, "answer-without-label", what, BACKUP))
    theirs = (annotations.c.run == run) & (annotations.c.example_id == tasks.c.example_id)
    taken = sa.select(tasks.c.example_id).where(
        (tasks.c.run == run) & (tasks.c.state == "taken") & ~sa.exists().where(theirs)
    )
    if names := _list(connection, taken):
        what = f"{len(names)} tasks are taken and have no label: {name_some(names)}"
        found.append(Finding(run, "task-without-label", what, BACKUP))
    return found


def _check_totals(connection: sa.Connection, run: str) -> list[Finding]:
    found = []
    if has_wrong_sums(connection, run):
        what = "the sums of requests by round and state are not those of the requests"
        found.append(Finding(run, "wrong-totals", what, RECOUNT, repairable=True))
    differences = find_differences(connection, run)
    if not differences:
        return found
    first = differences[0]
    scale = NANO if first.column in ("paid", "held", "inherited") else 1
    return [
        *found,
        Finding(
            run,
            "wrong-totals",
            f"{len(differences)} totals are not the sums of labels and ledger; the first: "
            f"{first.column} of {first.annotator} in round {first.round} is "
            f"{first.kept / scale:g}, expected {first.counted / scale:g}",
            RECOUNT,
            repairable=True,
        ),
    ]


def _list(connection: sa.Connection, query: sa.Select[str]) -> list[str]:
    return list(connection.execute(query).scalars())
