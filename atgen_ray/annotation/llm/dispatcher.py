"""Dispatcher of requests to a provider: it sends them in shards and handles every failure.

Life of a shard: it is written to the request log and its worst cost is reserved; it is created at
the provider, checked until it has ended, and collected; its requests are settled. A synchronous
request is a shard of one that is answered by its creation.

Worker threads run shards through the provider's hooks (`ShardRunner`). Only the calling thread
writes responses to the log, so that many are committed in one transaction.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.llm.error_policy import ATTEMPTS, Timeouts, describe_error, judge_reply
from atgen_ray.annotation.llm.pending import PendingRequests
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.request_log import RequestLog, RequestRecord, Settlement
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
    RequestAttempt,
    Shard,
)
from atgen_ray.annotation.request import AnnotationRequest, Key
from atgen_ray.core.errors import RunPaused, RunStopped, UserError
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
class BillingPolicy:
    """Costs of requests, and the configuration's choices for ambiguous outcomes and for a stop."""

    worst: Callable[[AnnotationRequest], int]  # billionths of a dollar
    cost: Callable[[int, int], int]  # of prompt and output tokens
    resend: bool  # send a request again whose outcome is ambiguous
    cancel: bool  # cancel batch jobs when the run is stopped
    bounds: CostBounds | None = None  # learns from answers; None: every answer costs the same


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
    ) -> None:
        """`progress` raises RunStopped when the run is to stop."""
        self._provider = provider
        self._request_log = request_log
        self._billing = billing
        self._timeouts = timeouts
        self._progress = progress
        self._runner = ShardRunner(provider, request_log, timeouts)
        self._losses = 0  # in a row
        self._undone: list[Shard] = []  # left as they were when the run was interrupted
        self._learnt = False  # from earlier rounds

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
        self._learn(by_key, latest)
        pending = PendingRequests(by_key, latest, self._provider)
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
                if isinstance(error, RunStopped | UserError) and (
                    note := self._detach_batches(in_flight.values())
                ):
                    raise type(error)(f"{error}; {note}") from None
                raise
        outcome = DispatchOutcome(self._request_log.read_latest(), limit)
        # A budget may have kept out any of them.
        sent = [outcome.rows[key] for key in by_key if key in outcome.rows]
        if len(sent) >= MANY and all(row.state == "refused" for row in sent):
            raise UserError(f"all {len(sent)} requests were refused, the last: {sent[-1].reason}")
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
            if limit is None and self._runner.blocked_for <= 0:
                limit = self._submit_shard(pending, in_flight, submit)
            if not in_flight:
                if not pending.todo or limit is not None:
                    return limit
                time.sleep(min(TICK, max(0.01, self._runner.blocked_for)))
                continue
            done, _ = wait(in_flight, timeout=TICK, return_when=FIRST_COMPLETED)
            if not done:
                continue
            if self._provider.limits.rows == 1 and in_flight.keys() - done:
                time.sleep(min(GATHER_AT_MOST, GATHER * len(in_flight)))
                done = {future for future in in_flight if future.done()}
            limit = None  # the shards that came back may have freed money
            fruitless = self._collect_shard(
                pending, {future: in_flight.pop(future) for future in done}
            )
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
        pieces = pending.next_shards(self._provider.limits.parallel - len(in_flight))
        if not pieces:
            return None
        bounds = self._billing.bounds
        shorten = None if bounds is None else bounds.shortener()
        entered, limit = self._request_log.intend(pieces, self._billing.worst, shorten)
        for shard in entered:
            in_flight[submit(shard, False)] = shard
        pending.put_back(pieces, sum(len(shard.attempts) for shard in entered))
        return limit

    def _collect_shard(
        self, pending: PendingRequests, done: dict["Future[list[RawResponse]]", Shard]
    ) -> bool:
        """Settle shards that have come back; return whether none of their requests was answered."""
        collected: dict[str, list[Settlement]] = {}
        errors: list[Exception] = []
        # What came back is written before any error is raised: it is paid for.
        for future, shard in done.items():
            try:
                collected[shard.hash], paused = self._read(shard, future.result())
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
                    self._settle_ambiguous(attempt) for attempt in shard.attempts
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

    def _read(
        self, shard: Shard, replies: Sequence[RawResponse]
    ) -> tuple[list[Settlement], str | None]:
        """Return the settlement of each request of an ended shard, and the reason why the run must
        pause, if it must.
        """
        by_id = {reply.custom_id: reply for reply in replies}
        settlements = []
        paused = None
        for attempt in shard.attempts:
            reply = by_id.get(attempt.custom_id) or RawResponse(
                attempt.custom_id, code="no_reply", message="no reply came"
            )
            action = judge_reply(reply, attempt.number)
            said = f"{reply.code}: {reply.message}"[:500]
            if action == "answered":
                settlements.append(self._receive(attempt.custom_id, attempt.request, reply))
            elif action == "refused":
                settlements.append(Settlement(attempt.custom_id, "refused", 0, reason=said))
            else:
                settlements.append(Settlement(attempt.custom_id, "unanswered", 0, reason=said))
                if action == "pause":
                    paused = (
                        f"{self._provider.name} says that its quota or credit is spent ({said})"
                    )
        return settlements, paused

    def _receive(
        self, custom_id: str, request: AnnotationRequest, reply: RawResponse
    ) -> Settlement:
        """Return the settlement of a response; one that cannot be parsed counts as paid."""
        body = reply.body or {}
        try:
            answer = self._provider.read(body)
        except ValueError as error:
            # The request was probably billed: keep the raw body, and count the worst case as paid.
            return Settlement(
                custom_id,
                "answered",
                self._billing.worst(request),
                body,
                f"malformed answer: {error}",
            )
        tokens = answer.prompt_tokens, answer.output_tokens
        paid = self._billing.cost(*tokens)
        # Not every server says that it has cut an answer.
        cut = request.output_limit is not None and (
            answer.finish == "length" or answer.output_tokens >= request.output_limit
        )
        if self._billing.bounds is not None:
            self._billing.bounds.learn(request, *tokens, cut)
        if cut:
            reason = f"it was cut at {request.output_limit} tokens, to stay within the budget"
            return Settlement(custom_id, "unanswered", paid, body, reason, *tokens)
        return Settlement(custom_id, "answered", paid, body, None, *tokens)

    def _learn(
        self, requests: dict[Key, AnnotationRequest], latest: dict[Key, RequestRecord]
    ) -> None:
        """Learn the costs of answers of earlier rounds, and of those that an earlier process has
        settled.
        """
        bounds = self._billing.bounds
        if bounds is None or not requests:
            return
        if not self._learnt:
            judged = next(iter(requests))[0].startswith(JUDGED)
            bounds.learn_lengths(self._request_log.read_lengths(judged))
            self._learnt = True
        for key, row in latest.items():
            if row.prompt_tokens is None or row.output_tokens is None or key not in requests:
                continue
            if row.prompt_hash == requests[key].prompt.hash:
                request = replace(requests[key], output_limit=row.output_limit)
                bounds.learn(request, row.prompt_tokens, row.output_tokens, row.cut)

    def _settle_ambiguous(self, attempt: RequestAttempt) -> Settlement:
        """Return the settlement of a request whose outcome is unknown: send it again, or give it up
        as paid.
        """
        worst = self._billing.worst(attempt.request)
        reason = "its answer was lost on the way and cannot be looked up"
        if worst == 0 or (self._billing.resend and attempt.number + 1 < ATTEMPTS):
            return Settlement(attempt.custom_id, "unanswered", worst, reason=reason)
        reason += "; its worst case counts as paid (annotator.in_doubt)"
        return Settlement(attempt.custom_id, "lost", worst, reason=reason)

    def _drain(
        self,
        pending: PendingRequests,
        in_flight: dict["Future[list[RawResponse]]", Shard],
        seconds: float,
    ) -> None:
        """Settle what comes back within `seconds`, because it is paid for. A shard that fails now
        stays in the log as it is.
        """
        deadline = time.monotonic() + seconds
        while in_flight and (left := deadline - time.monotonic()) > 0:
            done, _ = wait(in_flight, timeout=left, return_when=FIRST_COMPLETED)
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
        pool = ThreadPoolExecutor(self._provider.limits.parallel, thread_name_prefix="annotation")
        try:
            yield lambda shard, resumed: pool.submit(self._runner.run_shard, shard, resumed)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
