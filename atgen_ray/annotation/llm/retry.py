"""Requests that ended without a label, opened again, so that the run's next command asks them once
more with the settings that it has then.

What was paid for stays paid and stored. A request of a round that goes on is sent again as a new
attempt. An example of a round that is over may be selected again, because its round has been
trained on. An example that has a label is never opened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.config import StoppingConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.store.events import enter_event
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Ledger
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.tables import annotations, dead_letters, events, requests, shards

RETRIED = "retried"  # an event: requests were opened again
LEASE_SECONDS = 60.0
# refused: the provider said no; dead: the answers failed their checks; in-doubt: the answer was
# lost on the way and may have been billed.
Ending = Literal["refused", "dead", "in-doubt"]
STATES: dict[str, Ending] = {"refused": "refused", "answered": "dead", "lost": "in-doubt"}


@dataclass(frozen=True)
class Reopened:
    """What was opened: requests of the rounds that go on, and examples of rounds that are over."""

    requests: int
    examples: int

    def __str__(self) -> str:
        if not self.requests and not self.examples:
            return "nothing ended without a label in this way"
        parts = [f"{self.requests} requests are asked again"] if self.requests else []
        parts += [f"{self.examples} examples may be selected again"] if self.examples else []
        return f"{' and '.join(parts)} once the run goes on: give the same command as before"


def reopen_requests(
    journal: Journal, run: str, only: str | None = None, batch: str | None = None
) -> Reopened:
    """Open what ended without a label in a run that nobody drives.

    Args:
        only: what ended in this way alone; None: in any.
        batch: the provider's id of a batch job that will never be handed out. Its worst case counts
            as paid and its requests are sent again; nothing else is opened then.

    Raises:
        UserError: there is no such run, ending or batch.
        RunBusyError: a controller drives the run.
    """
    if only is not None and only not in get_args(Ending):
        raise UserError(
            f"--only is {only[:80]!r}, expected refused, dead or in-doubt"
            f"{nearest(only, get_args(Ending))}"
        )
    journal.run(run)
    lease = journal.acquire(run, ProcessIdentity("retry"), LEASE_SECONDS)
    try:
        with journal.leased_transaction(lease) as connection:
            found = (
                _reopen(connection, run, only)
                if batch is None
                else Reopened(_give_up(connection, run, batch), 0)
            )
            if found.requests or found.examples:
                payload = {"only": only, "batch": batch, "requests": found.requests}
                enter_event(
                    journal.database,
                    connection,
                    run,
                    RETRIED,
                    payload=payload | {"examples": found.examples},
                )
    finally:
        lease.release()
    return found


def _reopen(connection: sa.Connection, run: str, only: str | None) -> Reopened:
    committed = sa.select(events.c.round, events.c.step).where(
        (events.c.run == run) & (events.c.kind == sa.literal_column("'step'"))
    )
    over = {(row.round, row.step) for row in connection.execute(committed)}
    labelled = set(
        connection.execute(
            sa.select(annotations.c.example_id).where(annotations.c.run == run)
        ).scalars()
    )
    dead = set(
        connection.execute(
            sa.select(dead_letters.c.example_id).where(
                (dead_letters.c.run == run) & (dead_letters.c.step == "annotation")
            )
        ).scalars()
    )
    columns = [
        requests.c[name] for name in ("custom_id", "example_id", "round", "state", "attempt")
    ]
    key = [requests.c[name] for name in ("annotator", "vote", "repair")]
    query = sa.select(*columns, *key).where(requests.c.run == run).order_by(requests.c.attempt)
    latest = {
        (row.example_id, row.round, row.annotator, row.vote, row.repair): row
        for row in connection.execute(query)
    }
    opened = set[str]()
    examples = set[str]()  # whose dead letters go
    later = set[str]()  # those of rounds that are over
    for row in latest.values():
        ending = STATES.get(row.state)
        judged = row.example_id.startswith(JUDGED)
        if ending is None or only not in (None, ending) or row.example_id in labelled:
            continue
        # A bad answer ended its example only if no other annotator or vote gave a label.
        if ending == "dead" and row.example_id not in dead:
            continue
        if (row.round, "evaluation" if judged else "annotation") not in over:
            opened.add(row.custom_id)
            examples.add(row.example_id)
        elif row.example_id in dead:
            later.add(row.example_id)
    _update(connection, run, opened)
    _forget_dead_letters(connection, run, examples | later)
    return Reopened(len(opened), len(later - examples))


def _give_up(connection: sa.Connection, run: str, batch: str) -> int:
    """Settle a batch job under way with its worst case; return the number of its requests."""
    under_way = (shards.c.run == run) & ~shards.c.done & shards.c.remote.is_not(None)
    jobs = {
        row.remote: row.hash
        for row in connection.execute(sa.select(shards.c.remote, shards.c.hash).where(under_way))
    }
    if batch not in jobs:
        hint = nearest(batch, jobs) if jobs else "; none is under way"
        raise UserError(
            f"--give-up is {batch[:80]!r}, expected the id of a batch job under way{hint}"
        )
    mine = (requests.c.run == run) & (requests.c.shard == jobs[batch])
    sent = set(
        connection.execute(
            sa.select(requests.c.custom_id).where(mine & (requests.c.state == "sent"))
        ).scalars()
    )
    ledger = Ledger(run, StoppingConfig())
    ledger.settle(connection, ledger.read_held(connection, sorted(sent)))
    _update(connection, run, sent, reason=f"batch {batch} was given up; its worst case is paid")
    done = (shards.c.run == run) & (shards.c.hash == jobs[batch])
    connection.execute(sa.update(shards).where(done).values(done=True))
    return len(sent)


def _update(connection: sa.Connection, run: str, ids: Iterable[str], **values: str) -> None:
    """Make requests, by their custom ids, such as are sent again."""
    which = (requests.c.run == run) & (requests.c.custom_id == sa.bindparam("id"))
    rows = [{"id": id_} for id_ in sorted(ids)]
    if rows:
        change = sa.update(requests).where(which).values(state="unanswered", **values)
        connection.execute(change, rows)
        recount_requests(connection, run)


def _forget_dead_letters(connection: sa.Connection, run: str, examples: Iterable[str]) -> None:
    mine = (dead_letters.c.run == run) & (dead_letters.c.step == "annotation")
    which = mine & (dead_letters.c.example_id == sa.bindparam("id"))
    rows: Sequence[dict[str, str]] = [{"id": id_} for id_ in sorted(examples)]
    if rows:
        connection.execute(sa.delete(dead_letters).where(which), rows)
