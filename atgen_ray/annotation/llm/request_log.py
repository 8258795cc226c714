"""Write-ahead log of provider requests: intent before sending, the provider's id once known, then
every response.

Intent and budget reservation are one transaction, and so are response and settlement. Hence a
request in the log was sent or has an ambiguous outcome, and one that is not in the log was never
sent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.llm.prompts import hash_shard, identify
from atgen_ray.annotation.llm.request_records import (
    LostTime,
    RequestRecord,
    Settlement,
    read_record,
)
from atgen_ray.annotation.llm.request_totals import Outcome, add_sent, is_judged, move_settled
from atgen_ray.annotation.providers.base import RequestAttempt, Shard
from atgen_ray.annotation.request import AnnotationRequest, Key
from atgen_ray.core.machine import machine
from atgen_ray.store.events import RESTORED
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import Entry, Ledger, Scope
from atgen_ray.store.tables import request_totals, requests, shards

Pieces = Sequence[Sequence[tuple[AnnotationRequest, int]]]  # requests of each shard, and attempts

RECENT = 1000  # answers of earlier rounds whose lengths are read


class RequestLog:
    """The requests of one annotator in one round of a run. Safe to use from several threads."""

    def __init__(
        self, journal: Journal, lease: Lease, ledger: Ledger, annotator: str, round: int
    ) -> None:
        self._journal = journal
        self._lease = lease
        self._ledger = ledger
        self._annotator = annotator
        self._round = round
        # Another run of the same name, in another storage or created anew, must not take this
        # one's batch jobs for its own.
        record = journal.run(lease.run)
        self._identity = f"{record.name}@{record.created!r}"
        restored = journal.events(lease.run, kind=RESTORED)
        self.lost = (
            LostTime(min(event.payload["since"] for event in restored), restored[-1].time)
            if restored
            else None
        )
        self._held = -math.inf  # monotonic time at which the lease was ours
        self._mine = (
            (requests.c.run == lease.run)
            & (requests.c.annotator == annotator)
            & (requests.c.round == round)
        )

    def confirm_lease(self) -> None:
        """Look whether the lease is still ours, unless that was seen within half of its time.

        A process that was paused for longer finds out here, before it sends what its successor has
        looked up in vain and sent itself.

        Raises:
            LeaseLostError: another controller has taken the run.
        """
        now = machine().monotonic()
        if now - self._held > self._lease.ttl / 2:
            self._lease.renew()
            self._held = now

    def read_latest(self) -> dict[Key, RequestRecord]:
        """Return the latest attempt of each question."""
        query = sa.select(requests).where(self._mine).order_by(requests.c.attempt)
        with self._journal.database.reading() as connection:
            rows = [read_record(row) for row in connection.execute(query).mappings()]
        return {row.key: row for row in rows}

    def find_start(self) -> float | None:
        """Return when the annotator sent its first request of the round; None: it sent none."""
        mine = (shards.c.run == self._lease.run) & (shards.c.annotator == self._annotator)
        query = sa.select(sa.func.min(shards.c.time)).where(mine & (shards.c.round == self._round))
        with self._journal.database.reading() as connection:
            return connection.execute(query).scalar_one()

    def longest_answer(self) -> int | None:
        """Return the output tokens of the longest answer that the annotator gave in any round."""
        kept = request_totals.c
        mine = (kept.run == self._lease.run) & (kept.annotator == self._annotator)
        with self._journal.database.reading() as connection:
            longest = sa.select(sa.func.max(kept.longest)).where(mine & (kept.billed > 0))
            return connection.execute(longest).scalar_one()

    def read_lengths(self, judged: bool) -> list[int]:
        """Return the tokens of the latest labels or verdicts in earlier rounds, at most `RECENT` of
        them.
        """
        of_judge = is_judged()
        earlier = (requests.c.run == self._lease.run) & (requests.c.annotator == self._annotator)
        earlier &= (requests.c.round < self._round) & (of_judge if judged else ~of_judge)
        query = sa.select(requests.c.output_tokens).where(
            earlier & (requests.c.state == "answered") & requests.c.output_tokens.is_not(None)
        )
        query = query.order_by(requests.c.round.desc()).limit(RECENT)
        with self._journal.database.reading() as connection:
            return [int(length) for length in connection.execute(query).scalars()]

    def open_shards(self, wanted: Mapping[Key, AnnotationRequest]) -> list[Shard]:
        """Return the shards that are not settled, the oldest first, with those of their requests
        that are in `wanted`.
        """
        mine = (
            (shards.c.run == self._lease.run)
            & (shards.c.annotator == self._annotator)
            & (shards.c.round == self._round)
        )
        query = (
            sa.select(shards).where(mine & ~shards.c.done).order_by(shards.c.time, shards.c.hash)
        )
        members: dict[str, list[RequestAttempt]] = {}  # by shard
        for row in self.read_latest().values():
            if row.key in wanted:
                # If it is created anew, it may cost no more than was held for it.
                request = replace(wanted[row.key], output_limit=row.output_limit)
                members.setdefault(row.shard, []).append(
                    RequestAttempt(row.custom_id, request, row.attempt)
                )
        with self._journal.database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return [
            Shard(row["hash"], tuple(members[row["hash"]]), row["time"], row["remote"])
            for row in found
            if row["hash"] in members
        ]

    def intend(
        self,
        pieces: Pieces,
        worst: Callable[[AnnotationRequest], int],
        shorten: Callable[[AnnotationRequest], AnnotationRequest] | None = None,
    ) -> tuple[list[Shard], Scope | None]:
        """Write shards to the log before they are sent and reserve their worst cost, in one
        transaction.

        Args:
            pieces: the requests of each shard with their attempt.
            worst: the most that a request can cost, in billionths of a dollar.
            shorten: a cheaper request, sent instead where the budgets do not allow all of them.

        Returns:
            The shards to send, the last one cut short where the budget ends, and the budget that
            was met.
        """
        amounts = _price(pieces, worst)
        began = machine().monotonic()
        with self._journal.leased_transaction(self._lease) as connection:
            now = self._journal.database.clock(connection)
            room, limit = self._ledger.fit(connection, self._round, amounts)
            if limit is not None and shorten is not None:
                pieces = [[(shorten(request), at) for request, at in piece] for piece in pieces]
                amounts = _price(pieces, worst)
                room, limit = self._ledger.fit(connection, self._round, amounts)
            entered = []
            left = room
            for piece in pieces:
                if fitting := piece[:left]:  # the budget may cut a shard short
                    entered.append(self._name_shard(fitting, now))
                left -= len(fitting)
            attempts = [attempt for shard in entered for attempt in shard.attempts]
            entries = [
                Entry(attempt.custom_id, attempt.request.example_id, amount)
                for attempt, amount in zip(attempts, amounts[:room], strict=True)
            ]
            self._ledger.hold(connection, self._round, self._annotator, entries)
            self._enter(connection, entered, now)
        self._held = began
        return entered, limit

    def record_created(self, shard: Shard, remote: str) -> None:
        """Record the provider's id of a created shard: from here on it is never created again."""
        self._update(shard, remote=remote)

    def record_status(self, shard: Shard, status: str) -> None:
        """Record the status that the provider reports for the shard."""
        self._update(shard, status=status)

    def settle(self, collected: Mapping[str, Sequence[Settlement]]) -> None:
        """Write the outcomes of all requests of shards (by hash) and settle their money, in one
        transaction.
        """
        settlements = [settlement for some in collected.values() for settlement in some]
        with self._journal.leased_transaction(self._lease) as connection:
            now = self._journal.database.clock(connection)
            mine = (requests.c.run == self._lease.run) & (
                requests.c.custom_id == sa.bindparam("id")
            )
            mine &= requests.c.state == "sent"  # a settled request never changes
            names = ("state", "response", "reason", "prompt_tokens", "output_tokens")
            values = {
                name: sa.bindparam(f"new_{name}", type_=requests.c[name].type) for name in names
            }
            rows = [
                {
                    "id": settlement.custom_id,
                    "new_state": settlement.state,
                    "new_response": settlement.response,
                    "new_reason": settlement.reason,
                    "new_prompt_tokens": settlement.prompt_tokens,
                    "new_output_tokens": settlement.output_tokens,
                }
                for settlement in settlements
            ]
            outcomes = [
                Outcome(each.custom_id, each.state, each.prompt_tokens, each.output_tokens)
                for each in settlements
            ]
            move_settled(connection, self._lease.run, outcomes)
            connection.execute(sa.update(requests).where(mine).values(values | {"time": now}), rows)
            self._ledger.settle(
                connection, {settlement.custom_id: settlement.paid for settlement in settlements}
            )
            done = (shards.c.run == self._lease.run) & shards.c.hash.in_(sorted(collected))
            connection.execute(sa.update(shards).where(done).values(done=True))

    def jobs(self, hashes: Iterable[str]) -> list[str]:
        """Return the provider's ids of those shards that were created and have not been settled."""
        mine = (shards.c.run == self._lease.run) & ~shards.c.done & shards.c.remote.is_not(None)
        with self._journal.database.reading() as connection:
            rows = connection.execute(
                sa.select(shards.c.hash, shards.c.remote).where(mine).order_by(shards.c.time)
            )
            wanted = set(hashes)
            return [str(remote) for name, remote in rows if name in wanted]

    def known_remotes(self) -> set[str]:
        """Return the ids of everything that any run of this journal has created."""
        with self._journal.database.reading() as connection:
            query = sa.select(shards.c.remote).where(shards.c.remote.is_not(None))
            return set(connection.execute(query).scalars())

    def _name_shard(self, piece: Sequence[tuple[AnnotationRequest, int]], now: float) -> Shard:
        """Return a shard named after its requests; the ids of its requests begin with that name."""
        digests = [
            identify(self._identity, self._annotator, self._round, request, attempt)
            for request, attempt in piece
        ]
        name = hash_shard(digests)
        named = zip(digests, piece, strict=True)
        return Shard(
            name,
            tuple(
                RequestAttempt(f"{name}-{digest}", request, attempt)
                for digest, (request, attempt) in named
            ),
            now,
        )

    def _enter(self, connection: sa.Connection, entered: Sequence[Shard], now: float) -> None:
        """Insert the rows of shards and of their requests."""
        if not entered:
            return
        shard_rows = [
            {
                "run": self._lease.run,
                "annotator": self._annotator,
                "round": self._round,
                "time": now,
                "hash": shard.hash,
                "size": len(shard.attempts),
                "status": "sent",
                "done": False,
                "remote": None,
            }
            for shard in entered
        ]
        request_rows = [
            {
                "run": self._lease.run,
                "annotator": self._annotator,
                "round": self._round,
                "time": now,
                "custom_id": attempt.custom_id,
                "shard": shard.hash,
                "example_id": attempt.request.example_id,
                "vote": attempt.request.vote,
                "repair": attempt.request.repair,
                "attempt": attempt.number,
                "prompt_hash": attempt.request.prompt.hash,
                "output_limit": attempt.request.output_limit,
                "state": "sent",
            }
            for shard in entered
            for attempt in shard.attempts
        ]
        connection.execute(sa.insert(shards), shard_rows)
        connection.execute(sa.insert(requests), request_rows)
        examples = [each.request.example_id for shard in entered for each in shard.attempts]
        add_sent(connection, self._lease.run, self._round, self._annotator, examples)

    def _update(self, shard: Shard, **values: Any) -> None:
        mine = (shards.c.run == self._lease.run) & (shards.c.hash == shard.hash)
        with self._journal.leased_transaction(self._lease) as connection:
            connection.execute(sa.update(shards).where(mine).values(values))


def _price(pieces: Pieces, worst: Callable[[AnnotationRequest], int]) -> list[int]:
    """Return the most that each request can cost, in billionths of a dollar."""
    return [worst(request) for piece in pieces for request, _ in piece]
