"""The book of requests in the journal: the intent before a shard is sent, its id at the provider,
and every answer.

Intent and reservation are one transaction, and so are receipt and settlement. Whatever is in the
book was sent or is in doubt; whatever is not was never sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.llm.prompts import JUDGED, hash_shard, identify
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.request import AnnotationRequest, Key
from atgen_ray.store.journal import Journal, Lease
from atgen_ray.store.ledger import Entry, Ledger, Scope
from atgen_ray.store.tables import requests, shards


@dataclass(frozen=True)
class RequestRecord:
    """One sending of a question, and what became of it.

    `state` is sent, answered, unanswered (not billed, may be sent again), refused (never will be
    answered) or lost (perhaps billed, never to be seen).
    """

    custom_id: str
    shard: str
    key: Key
    attempt: int
    state: str
    response: dict[str, Any] | None
    reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    prompt_hash: str
    time: float


@dataclass(frozen=True)
class Settlement:
    """What became of a request, and what it cost in billionths of a dollar."""

    custom_id: str
    state: str
    paid: int
    response: dict[str, Any] | None = None
    reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class RequestLog:
    """The requests of one annotator in one round of a run. Safe to use from threads."""

    def __init__(
        self, journal: Journal, lease: Lease, ledger: Ledger, annotator: str, round: int
    ) -> None:
        self._journal = journal
        self._lease = lease
        self._ledger = ledger
        self._annotator = annotator
        self._round = round
        # Another run of this name, in another storage or made anew, must not take this one's batch
        # jobs for its own.
        record = journal.run(lease.run)
        self._identity = f"{record.name}@{record.created!r}"
        self._mine = (
            (requests.c.run == lease.run)
            & (requests.c.annotator == annotator)
            & (requests.c.round == round)
        )

    def read_latest(self) -> dict[Key, RequestRecord]:
        """The latest sending of each question."""
        query = sa.select(requests).where(self._mine).order_by(requests.c.attempt)
        with self._journal.database.reading() as connection:
            rows = [_read_row(row) for row in connection.execute(query).mappings()]
        return {row.key: row for row in rows}

    def open_shards(self, asks: Mapping[Key, AnnotationRequest]) -> list[Shard]:
        """Shards whose answers are not in the book, with the requests that are in `asks`, the
        oldest first.
        """
        mine = (
            (shards.c.run == self._lease.run)
            & (shards.c.annotator == self._annotator)
            & (shards.c.round == self._round)
        )
        query = (
            sa.select(shards).where(mine & ~shards.c.done).order_by(shards.c.time, shards.c.hash)
        )
        members: dict[str, list[RequestAttempt]] = {}
        for row in self.read_latest().values():
            if row.key in asks:
                members.setdefault(row.shard, []).append(
                    RequestAttempt(row.custom_id, asks[row.key], row.attempt)
                )
        with self._journal.database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return [
            Shard(row["hash"], tuple(members[row["hash"]]), row["time"], row["remote"])
            for row in found
            if row["hash"] in members
        ]

    def intend(
        self, pieces: Sequence[Sequence[tuple[AnnotationRequest, int]]], worst: Mapping[Key, int]
    ) -> tuple[list[Shard], Scope | None]:
        """Enters shards before they are sent and holds the money for their worst case, in one
        transaction.

        Args:
            pieces: the asks of each shard with their attempt.
            worst: the most that each question can cost, in billionths of a dollar.

        Returns:
            The shards to send, the last one cut short where the budget ends, and the budget that
            was met.
        """
        with self._journal.leased_transaction(self._lease) as connection:
            now = self._journal.database.clock(connection)
            amounts = [worst[ask.key] for piece in pieces for ask, _ in piece]
            room, limit = self._ledger.fit(connection, self._round, amounts)
            entered = []
            for piece in pieces:
                if fitting := piece[:room]:
                    entered.append(self._name_shard(fitting, now))
                room -= len(fitting)
            entries = [
                Entry(sending.custom_id, sending.ask.example_id, worst[sending.ask.key])
                for shard in entered
                for sending in shard.sendings
            ]
            self._ledger.hold(connection, self._round, self._annotator, entries)
            self._enter(connection, entered, now)
        return entered, limit

    def record_created(self, shard: Shard, remote: str) -> None:
        """The receipt of a creation: from here on the shard is never created again."""
        self._update(shard, remote=remote)

    def record_status(self, shard: Shard, status: str) -> None:
        """How the provider says that the shard stands."""
        self._update(shard, status=status)

    def settle(self, landed: Mapping[str, Sequence[Settlement]]) -> None:
        """Enters what became of all requests of shards, by hash, and settles their money, in one
        transaction.
        """
        receipts = [receipt for some in landed.values() for receipt in some]
        with self._journal.leased_transaction(self._lease) as connection:
            now = self._journal.database.clock(connection)
            mine = (requests.c.run == self._lease.run) & (
                requests.c.custom_id == sa.bindparam("id")
            )
            mine &= requests.c.state == "sent"
            names = ("state", "response", "reason", "prompt_tokens", "output_tokens")
            values = {
                name: sa.bindparam(f"new_{name}", type_=requests.c[name].type) for name in names
            }
            rows = [
                {"id": receipt.custom_id}
                | {f"new_{name}": getattr(receipt, name) for name in names}
                for receipt in receipts
            ]
            connection.execute(sa.update(requests).where(mine).values(values | {"time": now}), rows)
            self._ledger.settle(
                connection, {receipt.custom_id: receipt.paid for receipt in receipts}
            )
            done = (shards.c.run == self._lease.run) & shards.c.hash.in_(sorted(landed))
            connection.execute(sa.update(shards).where(done).values(done=True))

    def jobs(self, hashes: Iterable[str]) -> list[str]:
        """The provider's ids of those shards that were created and have not been settled."""
        mine = (shards.c.run == self._lease.run) & ~shards.c.done & shards.c.remote.is_not(None)
        with self._journal.database.reading() as connection:
            rows = connection.execute(
                sa.select(shards.c.hash, shards.c.remote).where(mine).order_by(shards.c.time)
            )
            wanted = set(hashes)
            return [str(remote) for name, remote in rows if name in wanted]

    def known_remotes(self) -> set[str]:
        """Ids of everything that any run of this journal has created."""
        with self._journal.database.reading() as connection:
            query = sa.select(shards.c.remote).where(shards.c.remote.is_not(None))
            return set(connection.execute(query).scalars())

    def _name_shard(self, piece: Sequence[tuple[AnnotationRequest, int]], now: float) -> Shard:
        """A shard named after its requests, whose ids carry its name."""
        digests = [
            identify(self._identity, self._annotator, self._round, ask, attempt)
            for ask, attempt in piece
        ]
        name = hash_shard(digests)
        named = zip(digests, piece, strict=True)
        return Shard(
            name,
            tuple(
                RequestAttempt(f"{name}-{digest}", ask, attempt) for digest, (ask, attempt) in named
            ),
            now,
        )

    def _enter(self, connection: sa.Connection, entered: Sequence[Shard], now: float) -> None:
        if not entered:
            return
        common = {
            "run": self._lease.run,
            "annotator": self._annotator,
            "round": self._round,
            "time": now,
        }
        connection.execute(
            sa.insert(shards),
            [
                common
                | {
                    "hash": shard.hash,
                    "size": len(shard.sendings),
                    "status": "sent",
                    "done": False,
                    "remote": None,
                }
                for shard in entered
            ],
        )
        connection.execute(
            sa.insert(requests),
            [
                common
                | {
                    "custom_id": sending.custom_id,
                    "shard": shard.hash,
                    "example_id": sending.ask.example_id,
                }
                | {
                    "vote": sending.ask.vote,
                    "repair": sending.ask.repair,
                    "attempt": sending.attempt,
                }
                | {"prompt_hash": sending.ask.prompt.hash, "state": "sent"}
                for shard in entered
                for sending in shard.sendings
            ],
        )

    def _update(self, shard: Shard, **values: Any) -> None:
        mine = (shards.c.run == self._lease.run) & (shards.c.hash == shard.hash)
        with self._journal.leased_transaction(self._lease) as connection:
            connection.execute(sa.update(shards).where(mine).values(values))


def summarize_requests(journal: Journal, run: str) -> dict[str, Any]:
    """How many requests of a run are in each state, and its batch jobs under way: provider's id,
    status and size.
    """
    counts = (
        sa.select(requests.c.state, sa.func.count())
        .where(requests.c.run == run)
        .group_by(requests.c.state)
    )
    under_way = sa.select(shards.c.remote, shards.c.status, shards.c.size, shards.c.round)
    under_way = under_way.where(
        (shards.c.run == run) & ~shards.c.done & shards.c.remote.is_not(None)
    )
    with journal.database.reading() as connection:
        states = {str(state): int(count) for state, count in connection.execute(counts)}
        jobs = [
            dict(row) for row in connection.execute(under_way.order_by(shards.c.time)).mappings()
        ]
    return {"requests": states, "batches": jobs}


def count_tokens(journal: Journal, run: str) -> dict[str, int]:
    """Requests for labels that were sent, and the tokens billed for them, by the names that a plan
    has.
    """
    sums = [
        sa.func.coalesce(sa.func.sum(column), 0)
        for column in (requests.c.prompt_tokens, requests.c.output_tokens)
    ]
    mine = (requests.c.run == run) & ~requests.c.example_id.startswith(JUDGED)
    query = sa.select(sa.func.count(), *sums).where(mine)
    with journal.database.reading() as connection:
        sent, prompt, output = connection.execute(query).one()
    names = ("annotator_requests", "annotator_prompt_tokens", "annotator_output_tokens_at_most")
    return dict(zip(names, (int(sent), int(prompt), int(output)), strict=True))


def _read_row(row: sa.RowMapping) -> RequestRecord:
    values = dict(row)
    key = (values.pop("example_id"), values.pop("vote"), values.pop("repair"))
    return RequestRecord(
        key=key,
        **{name: values[name] for name in RequestRecord.__dataclass_fields__ if name != "key"},
    )
