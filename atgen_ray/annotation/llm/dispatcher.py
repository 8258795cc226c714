"""The engine behind every annotating model: sends questions in shards, and owns all that can go
wrong.

A shard is entered in the book with its money held, created, checked until it has ended, collected,
and settled. A synchronous request is a shard of one that is answered at its creation. Worker
threads carry shards through the provider's hooks; this thread alone writes answers to the book, so
that many are committed at once.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from atgen_ray.annotation.llm.error_policy import ATTEMPTS, Timeouts, describe_error, judge_reply
from atgen_ray.annotation.llm.pending import PendingRequests
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
MANY = 10  # requests; so many failing alike is no matter of single rows

Submit = Callable[[Shard, bool], "Future[list[RawResponse]]"]


@dataclass(frozen=True)
class BillingPolicy:
    """What the configuration says about money and endings."""

    worst: Callable[[AnnotationRequest], int]  # billionths of a dollar
    cost: Callable[[int, int], int]  # of prompt and output tokens
    resend: bool  # a request in doubt
    cancel: bool  # batch jobs, when the run is stopped


@dataclass(frozen=True)
class DispatchOutcome:
    """What the book holds when all is done, and the budget that kept some questions from being
    sent.
    """

    rows: dict[Key, RequestRecord]
    limit: Scope | None


class RequestDispatcher:
    """Asks one provider the questions of one round."""

    def __init__(
        self,
        provider: Provider,
        book: RequestLog,
        terms: BillingPolicy,
        patience: Timeouts,
        progress: Progress,
    ) -> None:
        """`progress` raises RunStopped when the run is to stop."""
        self._provider = provider
        self._book = book
        self._terms = terms
        self._patience = patience
        self._progress = progress
        self._carrier = ShardRunner(provider, book, patience)
        self._losses = 0  # in a row
        self._left: list[Shard] = []  # as they were when the run was interrupted

    def answer(self, asks: Sequence[AnnotationRequest]) -> DispatchOutcome:
        """Sends every question that has no answer yet, and waits for all answers.

        Raises:
            RunStopped: the run is to stop; batch jobs were left running or cancelled, and the
                message says so.
            RunPaused: the provider turns us away.
            UserError: the configuration is wrong.
        """
        by_key = {ask.key: ask for ask in asks}
        questions = PendingRequests(by_key, self._book.read_latest(), self._provider)
        resumed = self._book.open_shards(by_key)
        with self._workers() as submit:
            flying = {submit(shard, True): shard for shard in resumed}
            try:
                limit = self._run_loop(questions, flying, submit)
            except BaseException as error:
                self._carrier.interrupt()
                patient = isinstance(error, RunPaused | UserError)
                self._drain(
                    questions, flying, self._patience.call if patient else self._patience.landing
                )
                if isinstance(error, RunStopped | UserError) and (
                    note := self._part(flying.values())
                ):
                    raise type(error)(f"{error}; {note}") from None
                raise
        outcome = DispatchOutcome(self._book.read_latest(), limit)
        sent = [
            outcome.rows[key] for key in by_key if key in outcome.rows
        ]  # a budget may keep out any of them
        if len(sent) >= MANY and all(row.state == "refused" for row in sent):
            raise UserError(f"all {len(sent)} requests were refused, the last: {sent[-1].reason}")
        return outcome

    def _run_loop(
        self,
        questions: PendingRequests,
        flying: dict["Future[list[RawResponse]]", Shard],
        submit: Submit,
    ) -> Scope | None:
        limit: Scope | None = None
        backoff = self._patience.first_wait
        while True:
            self._progress(questions.finished, questions.total)
            if limit is None and self._carrier.gated_for <= 0:
                limit = self._submit_shard(questions, flying, submit)
            if not flying:
                if not questions.todo or limit is not None:
                    return limit
                time.sleep(min(TICK, max(0.01, self._carrier.gated_for)))
                continue
            done, _ = wait(flying, timeout=TICK, return_when=FIRST_COMPLETED)
            if not done:
                continue
            limit = None  # what has landed may have freed money
            fruitless = self._collect_shard(
                questions, {future: flying.pop(future) for future in done}
            )
            if fruitless:  # nothing but rows to send again: not at once
                self._carrier.pause(backoff)
            backoff = (
                min(self._patience.longest_wait, backoff * 2)
                if fruitless
                else self._patience.first_wait
            )

    def _submit_shard(
        self,
        questions: PendingRequests,
        flying: dict["Future[list[RawResponse]]", Shard],
        submit: Submit,
    ) -> Scope | None:
        pieces = questions.take(self._provider.limits.parallel - len(flying))
        if not pieces:
            return None
        worst = {ask.key: self._terms.worst(ask) for piece in pieces for ask, _ in piece}
        entered, limit = self._book.intend(pieces, worst)
        for shard in entered:
            flying[submit(shard, False)] = shard
        questions.put_back(pieces, sum(len(shard.sendings) for shard in entered))
        return limit

    def _collect_shard(
        self, questions: PendingRequests, done: dict["Future[list[RawResponse]]", Shard]
    ) -> bool:
        """Settles shards that have come back; whether none of their requests did."""
        landed: dict[str, list[Settlement]] = {}
        troubles: list[Exception] = []
        for future, shard in done.items():
            try:
                landed[shard.hash], paused = self._read(shard, future.result())
                troubles += [RunPaused(paused)] if paused else []
                self._losses = 0
            except RunnerInterruptedError:
                continue
            except NotSentError as never:
                landed[shard.hash] = [
                    Settlement(sending.custom_id, "unanswered", 0) for sending in shard.sendings
                ]
                troubles += (
                    [never.__cause__] if isinstance(never.__cause__, RunPaused | UserError) else []
                )
            except UnknownOutcomeError:
                landed[shard.hash] = [self._doubt(sending) for sending in shard.sendings]
                self._losses += 1
            except Exception as error:  # raised again below, once what did come back is safe
                troubles.append(error)
        if landed:
            self._book.settle(landed)
            questions.note(
                {receipt.custom_id: receipt for some in landed.values() for receipt in some},
                done.values(),
            )
        if self._losses >= MANY:
            troubles.append(
                RunPaused(
                    f"{self._provider.name} left {self._losses} requests in a row without an answer"
                )
            )
        if troubles:
            raise troubles[0]
        return bool(landed) and all(
            receipt.state == "unanswered" for some in landed.values() for receipt in some
        )

    def _read(
        self, shard: Shard, replies: Sequence[RawResponse]
    ) -> tuple[list[Settlement], str | None]:
        """What became of each request of an ended shard, and why the run must pause, if it must."""
        by_id = {reply.custom_id: reply for reply in replies}
        receipts = []
        paused = None
        for sending in shard.sendings:
            reply = by_id.get(sending.custom_id) or RawResponse(
                sending.custom_id, code="no_reply", message="no reply came"
            )
            action = judge_reply(reply, sending.attempt)
            said = f"{reply.code}: {reply.message}"[:500]
            if action == "answered":
                receipts.append(self._receive(sending.custom_id, sending.ask, reply))
            elif action == "refused":
                receipts.append(Settlement(sending.custom_id, "refused", 0, reason=said))
            else:
                receipts.append(Settlement(sending.custom_id, "unanswered", 0, reason=said))
                if action == "pause":
                    paused = (
                        f"{self._provider.name} says that its quota or credit is spent ({said})"
                    )
        return receipts, paused

    def _receive(self, custom_id: str, ask: AnnotationRequest, reply: RawResponse) -> Settlement:
        body = reply.body or {}
        try:
            answer = self._provider.read(body)
        except ValueError as error:
            # Billed, as far as anybody knows: the raw body stays, and the worst case stays paid.
            return Settlement(
                custom_id, "answered", self._terms.worst(ask), body, f"malformed answer: {error}"
            )
        paid = self._terms.cost(answer.prompt_tokens, answer.output_tokens)
        return Settlement(
            custom_id, "answered", paid, body, None, answer.prompt_tokens, answer.output_tokens
        )

    def _doubt(self, sending: RequestAttempt) -> Settlement:
        worst = self._terms.worst(sending.ask)
        reason = "its answer was lost on the way and cannot be looked up"
        if worst == 0 or (self._terms.resend and sending.attempt + 1 < ATTEMPTS):
            return Settlement(sending.custom_id, "unanswered", worst, reason=reason)
        reason += "; its worst case counts as paid (annotator.in_doubt)"
        return Settlement(sending.custom_id, "lost", worst, reason=reason)

    # The end of a run in the middle.

    def _drain(
        self,
        questions: PendingRequests,
        flying: dict["Future[list[RawResponse]]", Shard],
        seconds: float,
    ) -> None:
        """Takes in what lands within `seconds`: it is paid for. What fails now is left as it is in
        the book.
        """
        deadline = time.monotonic() + seconds
        while flying and (left := deadline - time.monotonic()) > 0:
            done, _ = wait(flying, timeout=left, return_when=FIRST_COMPLETED)
            landing = {future: flying.pop(future) for future in done}
            self._left += [
                shard for future, shard in landing.items() if future.exception() is not None
            ]
            good = {
                f: s for f, s in landing.items() if isinstance(f.exception(), NotSentError | None)
            }
            try:
                self._collect_shard(questions, good)
            except (RunPaused, UserError):
                continue  # the first such is on its way already

    def _part(self, flying: Iterable[Shard]) -> str:
        """Leaves or cancels the batch jobs under way, and says so."""
        jobs = self._book.jobs(shard.hash for shard in (*flying, *self._left))
        names = ", ".join(jobs)
        if not jobs:
            return ""
        if not self._terms.cancel:
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
        """A pool of threads that are left behind, not waited for, when something goes wrong."""
        pool = ThreadPoolExecutor(self._provider.limits.parallel, thread_name_prefix="annotation")
        try:
            yield lambda shard, resumed: pool.submit(self._carrier.run_shard, shard, resumed)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
