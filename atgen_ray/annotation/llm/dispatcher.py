"""Dispatcher of requests to a provider: it sends them in shards and handles every failure.

Life of a shard: it is written to the request log and its worst cost is reserved; it is created at
the provider, checked until it has ended, and collected; its requests are settled. A synchronous
request is a shard of one that is answered by its creation.

Worker threads run shards through the provider's hooks (`ShardRunner`). Only the calling thread
writes responses to the log, so that many are committed in one transaction.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.llm.error_policy import ATTEMPTS, Timeouts, describe_error, judge_reply
from atgen_ray.annotation.llm.pending import PendingRequests
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.llm.provider_limits import AnswerLength, BatchQueue
from atgen_ray.annotation.llm.request_log import RequestLog, RequestRecord, Settlement
from atgen_ray.annotation.llm.shard_runner import (
    NotSentError,
    RunnerInterruptedError,
    ShardRunner,
    UnknownOutcomeError,
)
from atgen_ray.annotation.llm.thought_watch import ThoughtWatch
from atgen_ray.annotation.providers.base import (
    Provider,
    ProviderError,
    RawResponse,
    RequestAttempt,
    Shard,
)
from atgen_ray.annotation.request import AnnotationRequest, Key
from atgen_ray.core.errors import RunPaused, RunStopped, UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.records import Progress
from atgen_ray.store.ledger import Scope

TICK = 0.2  # seconds between two looks at the wish to stop
REPORT_SECONDS = 5.0  # between two reports of what the provider is doing
RECENT_SECONDS = 60.0  # how old the error of a provider may be that is failing
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
    cost: Callable[..., int]  # of prompt, output, cached and written tokens
    resend: bool  # send a request again whose outcome is ambiguous
    cancel: bool  # cancel batch jobs when the run is stopped
    longest: int | None = None  # output tokens that a request asks for at most; None: unlimited
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
        self._report = report
        self._runner = ShardRunner(provider, request_log, timeouts)
        self._watch = ThoughtWatch()
        self._losses = 0  # in a row
        self._failures = Counter[Key]()  # of each question, by this command
        self._queue = BatchQueue(provider.limits.rows)
        # Answers that cost nothing may be of any length.
        self._length = AnswerLength(billing.longest if billing.cost(0, 1) else None)
        self._reported: dict[str, Any] = {}
        self._report_due = 0.0  # monotonic time
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
        self._runner.answered += sum(row.state == "answered" for row in latest.values())
        self._length.watch(self._request_log.longest_answer())
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
                self._show_end(str(error) if isinstance(error, RunPaused) else None)
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
            waits = self._queue.full and bool(in_flight)
            if limit is None and not waits and self._runner.blocked_for <= 0:
                limit = self._submit_shard(pending, in_flight, submit)
            self._show(len(in_flight))
            if not in_flight:
                if not pending.todo or limit is not None:
                    self._show_end()
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

    def _show(self, in_flight: int) -> None:
        """Report what the provider is doing, where that is new and some time has passed."""
        now = machine().monotonic()
        waits = self._runner.blocked_for
        state = {
            "provider": self._provider.name,
            "in_flight": in_flight,
            "waiting_until": round(machine().time() + waits) if waits > 0 else None,
            "queue_full": self._queue.full,
            "last_error": self._runner.last_error,
            "failing": now - self._runner.failed < RECENT_SECONDS,
        }
        if now >= self._report_due and state != self._reported:
            self._report_due = now + REPORT_SECONDS
            self._reported = state
            self._report(state)

    def _show_end(self, reason: str | None = None) -> None:
        """Report that nothing is being sent: all is done, or the run ends for a reason."""
        self._report_due = 0.0
        self._reported = {
            "provider": self._provider.name,
            "in_flight": 0,
            "waiting_until": None,
            "queue_full": False,
            "last_error": reason or self._runner.last_error,
            "failing": False,
        }
        self._report(self._reported)

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
        parallel = 1 if self._length.ignored else self._provider.limits.parallel
        pieces = pending.next_shards(parallel - len(in_flight), self._queue.rows)
        if not pieces:
            return None
        bounds = self._billing.bounds
        shorten = None if bounds is None else bounds.shortener()
        entered, limit = self._request_log.intend(pieces, self._bound, shorten)
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
                collected[shard.hash], paused = self._read(shard, future.result(), alone)
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
        if (warning := self._length.warn(self._provider.name)) is not None:
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

    def _read(
        self, shard: Shard, replies: Sequence[RawResponse], alone: bool
    ) -> tuple[list[Settlement], str | None]:
        """Return the settlement of each request of an ended shard, and the reason why the run must
        pause, if it must.
        """
        by_id = {reply.custom_id: reply for reply in replies}
        settlements = []
        paused = None
        queued = False
        for attempt in shard.attempts:
            key = attempt.request.key
            reply = by_id.get(attempt.custom_id) or RawResponse(
                attempt.custom_id,
                code="no_reply" if by_id else "no_replies",
                message="no reply came",
            )
            action = judge_reply(reply, self._failures[key])
            said = f"{reply.code}: {reply.message}"[:500]
            if action == "answered":
                settlements.append(self._receive(attempt.custom_id, attempt.request, reply))
            elif action == "refused":
                settlements.append(Settlement(attempt.custom_id, "refused", 0, reason=said))
            else:
                settlements.append(Settlement(attempt.custom_id, "unanswered", 0, reason=said))
                name = self._provider.name
                self._runner.note(said)
                if action == "queue":  # no attempt: nothing was tried
                    queued = True
                    continue
                self._failures[key] += 1
                if action == "quota":
                    paused = f"{name} says that its quota or credit is spent ({said})"
                elif action == "stuck":
                    paused = (
                        f"{name} has left requests without an answer {ATTEMPTS} times ({said}); "
                        f"nothing was given up, and the same command asks again"
                    )
        if not queued:
            self._queue.take()
        else:
            self._queue.turn_away(alone)
            if alone and self._queue.waited > self._timeouts.batch:
                hours = self._queue.waited / 3600
                paused = (
                    f"{self._provider.name} has had no room in its queue for {hours:.1f} h "
                    f"({said}); the same command asks again"
                )
        return settlements, paused or self._watch.find_reason(self._provider.name)

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
                self._bound(request),
                body,
                f"malformed answer: {error}",
            )
        prompt, output = answer.prompt_tokens, answer.output_tokens
        limit = request.output_limit
        self._length.watch(output, limit)
        # Who does not say what it bills may bill the worst case; the label is good all the same.
        if prompt is None or output is None:
            paid = self._bound(request)
        else:
            paid = self._billing.cost(prompt, output, answer.cached_tokens, answer.written_tokens)
        # Not every server says that it has cut an answer; one that ignores limits cuts none.
        reached = limit is not None and (output or 0) >= limit and not self._length.ignored
        cut = limit is not None and (answer.finish == "length" or reached)
        if self._billing.bounds is not None and prompt is not None and output is not None:
            self._billing.bounds.learn(request, prompt, output, cut)
        if cut:
            reason = f"it was cut at {limit} tokens, to stay within the budget"
            return Settlement(custom_id, "unanswered", paid, body, reason, prompt, output)
        self._watch.note(answer)
        return Settlement(custom_id, "answered", paid, body, None, prompt, output)

    def _bound(self, request: AnnotationRequest) -> int:
        """Return the most that a request can cost, with answers as long as the longest so far."""
        worst = self._billing.worst(request)
        excess = self._length.excess
        return worst + self._billing.cost(0, excess) if excess else worst

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
        worst = self._bound(attempt.request)
        reason = "its answer was lost on the way and cannot be looked up"
        key = attempt.request.key
        if worst == 0 or (self._billing.resend and self._failures[key] + 1 < ATTEMPTS):
            self._failures[key] += 1
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
