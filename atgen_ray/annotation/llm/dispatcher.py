"""Dispatcher of requests to a provider: it sends them in shards and handles every failure.

Life of a shard: it is written to the request log and its worst cost is reserved; it is created at
the provider, checked until it has ended, and collected; its requests are settled. A synchronous
request is a shard of one that is answered by its creation.

Worker threads run shards through the provider's hooks (`ShardRunner`). Only the calling thread
writes responses to the log, so that many are committed in one transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from atgen_ray.annotation.llm.billing import BillingPolicy
from atgen_ray.annotation.llm.error_policy import Timeouts, describe_error
from atgen_ray.annotation.llm.pending import PendingRequests
from atgen_ray.annotation.llm.provider_report import ProviderReport
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_records import RequestRecord, Settlement
from atgen_ray.annotation.llm.settling import Settler
from atgen_ray.annotation.llm.shard_runner import (
    NotSentError,
    RunnerInterruptedError,
    ShardRunner,
    UnknownOutcomeError,
)
from atgen_ray.annotation.providers.base import (
    Provider,
    ProviderError,
    RawResponse,
    Shard,
)
from atgen_ray.annotation.request import AnnotationRequest, Key
from atgen_ray.core.errors import RunPaused, RunStopped, UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.records import Progress
from atgen_ray.store.ledger import Scope

TICK = 0.2  # seconds between two looks at the wish to stop
# Seconds in which answers land that are settled in one transaction: for each request in flight, and
# at most.
GATHER = 0.0003
GATHER_AT_MOST = 0.02
MANY = 10  # requests that fail alike: the cause is not in single rows

Submit = Callable[[Shard, bool], "Future[list[RawResponse]]"]


@dataclass(frozen=True)
class DispatchOutcome:
    """Records of all requests when the dispatcher is done, and the budget that left some of them
    unsent.
    """

    rows: dict[Key, RequestRecord]
    limit: Scope | None


class RequestDispatcher:
    """Sends the requests of one round to one provider."""

    def __init__(
        self,
        provider: Provider,
        request_log: RequestLog,
        billing: BillingPolicy,
        timeouts: Timeouts,
        progress: Progress,
        warn: Callable[[str], None] = lambda text: None,
        report: Callable[[dict[str, Any]], None] = lambda state: None,
    ) -> None:
        """`progress` raises RunStopped when the run is to stop; `warn` tells the user of something
        that does not end the run, and `report` what the provider is doing.
        """
        self._provider = provider
        self._request_log = request_log
        self._billing = billing
        self._timeouts = timeouts
        self._progress = progress
        self._warn = warn
        self._runner = ShardRunner(provider, request_log, timeouts)
        self._report = ProviderReport(provider, self._runner, report)
        self._settler = Settler(provider, billing, timeouts, self._runner.note)
        self._losses = 0  # in a row
        self._undone: list[Shard] = []  # left as they were when the run was interrupted

    def answer(self, requests: Sequence[AnnotationRequest]) -> DispatchOutcome:
        """Send every request that has no answer yet, and wait for all answers.

        Raises:
            RunStopped: the run is to stop; batch jobs were left running or cancelled, and the
                message says so.
            RunPaused: the provider turns us away.
            UserError: the configuration is wrong.
        """
        by_key = {request.key: request for request in requests}
        latest = self._request_log.read_latest()
        self._settler.learn(by_key, latest, self._request_log.read_lengths)
        pending = PendingRequests(by_key, latest, self._provider)
        self._runner.answered += sum(row.state == "answered" for row in latest.values())
        self._settler.length.watch(self._request_log.longest_answer())
        resumed = self._request_log.open_shards(by_key)
        with self._workers() as submit:
            in_flight = {submit(shard, True): shard for shard in resumed}
            try:
                limit = self._run_loop(pending, in_flight, submit)
            except BaseException as error:
                self._runner.interrupt()
                patient = isinstance(error, RunPaused | UserError)
                self._drain(
                    pending, in_flight, self._timeouts.call if patient else self._timeouts.drain
                )
                self._report.show_end(str(error) if isinstance(error, RunPaused) else None)
                if isinstance(error, RunStopped | UserError) and (
                    note := self._detach_batches(in_flight.values())
                ):
                    raise type(error)(f"{error}; {note}") from None
                raise
        outcome = DispatchOutcome(self._request_log.read_latest(), limit)
        # A budget may have kept out any of them.
        sent = [outcome.rows[key] for key in by_key if key in outcome.rows]
        if len(sent) >= MANY and all(row.state == "refused" for row in sent):
            raise UserError(
                f"all {len(sent)} requests were refused, the last: {sent[-1].reason}; once the "
                f"cause is cured, `atgen-ray runs retry` has them asked again"
            )
        return outcome

    def _run_loop(
        self,
        pending: PendingRequests,
        in_flight: dict["Future[list[RawResponse]]", Shard],
        submit: Submit,
    ) -> Scope | None:
        """Submit and collect shards until none is left; return the budget that ran out, if one
        did.
        """
        limit: Scope | None = None
        backoff = self._timeouts.first_wait
        while True:
            self._progress(pending.finished, pending.total)
            waits = self._settler.queue.full and bool(in_flight)
            if limit is None and not waits and self._runner.blocked_for <= 0:
                limit = self._submit_shard(pending, in_flight, submit)
            self._report.show(len(in_flight), self._settler.queue.full)
            if not in_flight:
                if not pending.todo or limit is not None:
                    self._report.show_end()
                    return limit
                machine().sleep(min(TICK, max(0.01, self._runner.blocked_for)))
                continue
            done = machine().wait_for_any(in_flight, TICK)
            if not done:
                continue
            if self._provider.limits.rows == 1 and len(done) < len(in_flight):
                machine().sleep(min(GATHER_AT_MOST, GATHER * len(in_flight)))
                done = [future for future in in_flight if future.done()]
            limit = None  # the shards that came back may have freed money
            shards = {future: in_flight.pop(future) for future in done}
            fruitless = self._collect_shard(pending, shards, alone=not in_flight)
            if fruitless:  # every request is to be sent again: wait before that
                self._runner.pause(backoff)
            backoff = (
                min(self._timeouts.longest_wait, backoff * 2)
                if fruitless
                else self._timeouts.first_wait
            )

    def _submit_shard(
        self,
        pending: PendingRequests,
        in_flight: dict["Future[list[RawResponse]]", Shard],
        submit: Submit,
    ) -> Scope | None:
        """Submit as many shards as the provider and the budgets allow; return the budget that ran
        out.
        """
        # An answer is longer than its money: one at a time, so that no more than one can be.
        parallel = 1 if self._settler.length.ignored else self._provider.limits.parallel
        pieces = pending.next_shards(parallel - len(in_flight), self._settler.queue.rows)
        if not pieces:
            return None
        bounds = self._billing.bounds
        shorten = None if bounds is None else bounds.shortener()
        entered, limit = self._request_log.intend(pieces, self._settler.bound, shorten)
        for shard in entered:
            in_flight[submit(shard, False)] = shard
        pending.put_back(pieces, sum(len(shard.attempts) for shard in entered))
        return limit

    def _collect_shard(
        self,
        pending: PendingRequests,
        done: dict["Future[list[RawResponse]]", Shard],
        alone: bool = False,
    ) -> bool:
        """Settle shards that have come back; return whether none of their requests was answered.
        `alone` says that no others are under way.
        """
        collected: dict[str, list[Settlement]] = {}
        errors: list[Exception] = []
        # What came back is written before any error is raised: it is paid for.
        for future, shard in done.items():
            try:
                collected[shard.hash], paused = self._settler.read(shard, future.result(), alone)
                if paused:
                    errors.append(RunPaused(paused))
                self._losses = 0
            except RunnerInterruptedError:
                continue
            except NotSentError as never:
                collected[shard.hash] = [
                    Settlement(attempt.custom_id, "unanswered", 0) for attempt in shard.attempts
                ]
                if isinstance(never.__cause__, RunPaused | UserError):
                    errors.append(never.__cause__)
            except UnknownOutcomeError:
                collected[shard.hash] = [
                    self._settler.settle_ambiguous(attempt) for attempt in shard.attempts
                ]
                self._losses += 1
            except Exception as error:  # raised again below, once what did come back is safe
                errors.append(error)
        if collected:
            self._request_log.settle(collected)
            pending.record(
                {
                    settlement.custom_id: settlement
                    for some in collected.values()
                    for settlement in some
                },
                done.values(),
            )
        if (warning := self._settler.length.warn(self._provider.name)) is not None:
            self._warn(warning)
        if self._losses >= MANY:
            errors.append(
                RunPaused(
                    f"{self._provider.name} left {self._losses} requests in a row without an answer"
                )
            )
        if errors:
            raise errors[0]
        return bool(collected) and all(
            settlement.state == "unanswered" and settlement.output_tokens is None
            for some in collected.values()
            for settlement in some
        )

    def _drain(
        self,
        pending: PendingRequests,
        in_flight: dict["Future[list[RawResponse]]", Shard],
        seconds: float,
    ) -> None:
        """Settle what comes back within `seconds`, because it is paid for. A shard that fails now
        stays in the log as it is.
        """
        deadline = machine().monotonic() + seconds
        while in_flight and (left := deadline - machine().monotonic()) > 0:
            done = machine().wait_for_any(in_flight, left)
            good: dict[Future[list[RawResponse]], Shard] = {}
            for future in done:
                shard = in_flight.pop(future)
                error = future.exception()
                if error is not None:
                    self._undone.append(shard)
                if isinstance(error, NotSentError | None):
                    good[future] = shard
            try:
                self._collect_shard(pending, good)
            except (RunPaused, UserError):
                continue  # the caller is raising the first such error already

    def _detach_batches(self, in_flight: Iterable[Shard]) -> str:
        """Leave or cancel the batch jobs under way; return a line that says which, empty without
        jobs.
        """
        jobs = self._request_log.jobs(shard.hash for shard in (*in_flight, *self._undone))
        names = ", ".join(jobs)
        if not jobs:
            return ""
        if not self._billing.cancel:
            return (
                f"batch {names} goes on at {self._provider.name} (detached): the same command "
                f"collects it"
            )
        failed = []
        for job in jobs:
            try:
                self._provider.cancel(job)
            except ProviderError as error:
                failed.append(f"{job}: {describe_error(error)}")
        if failed:
            return (
                f"batch {names} was to be cancelled at {self._provider.name}, which failed: "
                f"{'; '.join(failed)}"
            )
        return (
            f"batch {names} was cancelled at {self._provider.name}; the same command collects "
            f"what it had done"
        )

    @contextmanager
    def _workers(self) -> Iterator[Submit]:
        """Yield a function that submits shards to a thread pool. After an error its threads are
        left behind, not waited for.
        """
        pool = machine().pool(self._provider.limits.parallel, "annotation")
        try:
            yield lambda shard, resumed: pool.submit(self._runner.run_shard, shard, resumed)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
