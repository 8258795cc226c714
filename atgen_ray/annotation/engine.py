"""The engine behind every annotating model: sends questions in shards, and owns all that can go wrong.

A shard is entered in the book with its money held, created, checked until it has ended, collected, and settled. A
synchronous request is a shard of one that is answered at its creation. Worker threads carry shards through the
provider's hooks; this thread alone writes answers to the book, so that many are committed at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from atgen_ray.annotation.book import Book, Receipt, Row
from atgen_ray.annotation.decisions import (
    ATTEMPTS,
    Call,
    CallAction,
    Look,
    Mistake,
    Patience,
    Pause,
    Refuse,
    Retry,
    describe_error,
    judge_batch,
    judge_call,
    judge_reply,
)
from atgen_ray.annotation.providers import Provider, ProviderError, Reply, Sending, Shard, StillHidden, Ticket
from atgen_ray.annotation.requests import Ask, Key
from atgen_ray.budget import Scope
from atgen_ray.errors import RunPaused, RunStopped, UserError
from atgen_ray.records import Progress

TICK = 0.2  # seconds between two looks at the wish to stop
MANY = 10  # requests; so many failing alike is no matter of single rows
T = TypeVar("T")


class Interrupted(Exception):
    """A worker was told to leave its shard as it is; the book knows where."""


class NeverSent(Exception):
    """The shard was given up before anything of it went out; the cause says why."""


class Lost(Exception):
    """The shard may have been created, and nobody can tell."""


@dataclass(frozen=True)
class Terms:
    """What the configuration says about money and endings."""

    worst: Callable[[Ask], int]  # billionths of a dollar
    cost: Callable[[int, int], int]  # of prompt and output tokens
    resend: bool  # a request in doubt
    cancel: bool  # batch jobs, when the run is stopped


@dataclass(frozen=True)
class Outcome:
    """What the book holds when all is done, and the budget that kept some questions from being sent."""

    rows: dict[Key, Row]
    limit: Scope | None


class Engine:
    """Asks one provider the questions of one round."""

    def __init__(self, provider: Provider, book: Book, terms: Terms, patience: Patience, progress: Progress) -> None:
        """`progress` raises RunStopped when the run is to stop."""
        self._provider, self._book, self._terms = provider, book, terms
        self._patience, self._progress = patience, progress
        self._stop = threading.Event()
        self._gate = 0.0  # no call before this moment
        self._losses = 0  # in a row
        self._left: list[Shard] = []  # as they were when the run was interrupted

    def answer(self, asks: Sequence[Ask]) -> Outcome:
        """Sends every question that has no answer yet, and waits for all answers.

        Raises:
            RunStopped: the run is to stop; batch jobs were left running or cancelled, and the message says so.
            RunPaused: the provider turns us away.
            UserError: the configuration is wrong.
        """
        by_key = {ask.key: ask for ask in asks}
        desk = _Desk(by_key, self._book.read_latest(), self._provider)
        resumed = self._book.open_shards(by_key)
        with self._workers() as submit:
            flying = {submit(shard, True): shard for shard in resumed}
            try:
                limit = self._fly(desk, flying, submit)
            except BaseException as error:
                self._stop.set()
                patient = isinstance(error, RunPaused | UserError)
                self._rescue(desk, flying, self._patience.call if patient else self._patience.landing)
                if isinstance(error, RunStopped | UserError) and (note := self._part(flying.values())):
                    raise type(error)(f"{error}; {note}") from None
                raise
        outcome = Outcome(self._book.read_latest(), limit)
        if len(asks) >= MANY and all(row.state == "refused" for row in map(outcome.rows.get, by_key) if row):
            raise UserError(f"all {len(asks)} requests were refused, the last: {outcome.rows[asks[-1].key].reason}")
        return outcome

    def _fly(self, desk: "_Desk", flying: dict["Future[list[Reply]]", Shard], submit: "Submit") -> Scope | None:
        limit: Scope | None = None
        backoff = self._patience.first_wait
        while True:
            self._progress(desk.finished, desk.total)
            if limit is None and not self._gated():
                limit = self._launch(desk, flying, submit)
            if not flying:
                if not desk.todo or limit is not None:
                    return limit
                time.sleep(min(TICK, max(0.01, self._gate - time.monotonic())))
                continue
            done, _ = wait(flying, timeout=TICK, return_when=FIRST_COMPLETED)
            if not done:
                continue
            limit = None  # what has landed may have freed money
            fruitless = self._land(desk, {future: flying.pop(future) for future in done})
            if fruitless:  # nothing but rows to send again: not at once
                self._gate = time.monotonic() + backoff
            backoff = min(self._patience.longest_wait, backoff * 2) if fruitless else self._patience.first_wait

    def _launch(self, desk: "_Desk", flying: dict["Future[list[Reply]]", Shard], submit: "Submit") -> Scope | None:
        pieces = desk.take(self._provider.limits.parallel - len(flying))
        if not pieces:
            return None
        worst = {ask.key: self._terms.worst(ask) for piece in pieces for ask, _ in piece}
        entered, limit = self._book.intend(pieces, worst)
        for shard in entered:
            flying[submit(shard, False)] = shard
        desk.put_back(pieces, sum(len(shard.sendings) for shard in entered))
        return limit

    def _land(self, desk: "_Desk", done: dict["Future[list[Reply]]", Shard]) -> bool:
        """Settles shards that have come back; whether none of their requests did."""
        landed: dict[str, list[Receipt]] = {}
        troubles: list[Exception] = []
        for future, shard in done.items():
            try:
                landed[shard.hash], paused = self._read(shard, future.result())
                troubles += [RunPaused(paused)] if paused else []
                self._losses = 0
            except Interrupted:
                continue
            except NeverSent as never:
                landed[shard.hash] = [Receipt(sending.custom_id, "unanswered", 0) for sending in shard.sendings]
                troubles += [never.__cause__] if isinstance(never.__cause__, RunPaused | UserError) else []
            except Lost:
                landed[shard.hash] = [self._doubt(sending) for sending in shard.sendings]
                self._losses += 1
            except Exception as error:  # raised again below, once what did come back is safe
                troubles.append(error)
        if landed:
            self._book.settle(landed)
            desk.note({receipt.custom_id: receipt for some in landed.values() for receipt in some}, done.values())
        if self._losses >= MANY:
            troubles.append(RunPaused(f"{self._provider.name} left {self._losses} requests in a row without an answer"))
        if troubles:
            raise troubles[0]
        return bool(landed) and all(receipt.state == "unanswered" for some in landed.values() for receipt in some)

    def _read(self, shard: Shard, replies: Sequence[Reply]) -> tuple[list[Receipt], str | None]:
        """What became of each request of an ended shard, and why the run must pause, if it must."""
        by_id = {reply.custom_id: reply for reply in replies}
        receipts, paused = [], None
        for sending in shard.sendings:
            reply = by_id.get(sending.custom_id) or Reply(sending.custom_id, code="no_reply", message="no reply came")
            action = judge_reply(reply, sending.attempt)
            said = f"{reply.code}: {reply.message}"[:500]
            if action == "answered":
                receipts.append(self._receive(sending.custom_id, sending.ask, reply))
            elif action == "refused":
                receipts.append(Receipt(sending.custom_id, "refused", 0, reason=said))
            else:
                receipts.append(Receipt(sending.custom_id, "unanswered", 0, reason=said))
                if action == "pause":
                    paused = f"{self._provider.name} says that its quota or credit is spent ({said})"
        return receipts, paused

    def _receive(self, custom_id: str, ask: Ask, reply: Reply) -> Receipt:
        body = reply.body or {}
        try:
            answer = self._provider.read(body)
        except ValueError as error:
            # Billed, as far as anybody knows: the raw body stays, and the worst case stays paid.
            return Receipt(custom_id, "answered", self._terms.worst(ask), body, f"malformed answer: {error}")
        paid = self._terms.cost(answer.prompt_tokens, answer.output_tokens)
        return Receipt(custom_id, "answered", paid, body, None, answer.prompt_tokens, answer.output_tokens)

    def _doubt(self, sending: Sending) -> Receipt:
        worst = self._terms.worst(sending.ask)
        reason = "its answer was lost on the way and cannot be looked up"
        if worst == 0 or (self._terms.resend and sending.attempt + 1 < ATTEMPTS):
            return Receipt(sending.custom_id, "unanswered", worst, reason=reason)
        reason += "; its worst case counts as paid (annotator.in_doubt)"
        return Receipt(sending.custom_id, "lost", worst, reason=reason)

    # What follows runs in worker threads.

    def _carry(self, shard: Shard, resumed: bool) -> list[Reply]:
        """A shard from wherever it is to its replies."""
        try:
            ticket = self._open(shard, resumed)
        except Refused as refusal:
            return [Reply(sending.custom_id, code="refused", message=str(refusal)) for sending in shard.sendings]
        if ticket.replies is None:
            self._await(shard, ticket.remote)
            return self._repeat(lambda: [*self._provider.collect(shard, ticket.remote)])
        return [*ticket.replies]

    def _open(self, shard: Shard, resumed: bool) -> Ticket:
        """The created shard; one that may have been created before is looked for first."""
        if shard.remote is not None:
            return Ticket(shard.remote)
        tries, since, look, doubtful = 0, time.monotonic(), resumed, resumed
        try:
            while True:
                if look and (found := self._find(shard)):
                    return self._created(shard, found)
                doubtful = False  # it is certainly not there
                self._hold_at_gate()
                doubtful = True
                try:
                    return self._created(shard, self._provider.create(shard))
                except ProviderError as error:
                    tries += 1
                    since = time.monotonic() if tries == 1 else since
                    action = self._judge(error, tries, since, self._call)
                    doubtful = look = isinstance(action, Look)
                    self._act(action, error)
        except (Interrupted, RunPaused, UserError) as error:
            if doubtful:
                raise
            raise NeverSent from error

    def _created(self, shard: Shard, ticket: Ticket) -> Ticket:
        if ticket.replies is None:  # else the answer itself is the receipt, and follows at once
            self._book.record_created(shard, ticket.remote)
        return ticket

    def _find(self, shard: Shard) -> Ticket | None:
        """The shard at the provider; None when it is certainly not there."""
        if not self._provider.remembers:
            raise Lost
        asked = time.monotonic()
        while True:
            known = self._book.known_remotes()
            try:
                found = self._repeat(partial(self._provider.find, shard, known))
            except StillHidden:
                if time.time() - shard.time > self._patience.batch + self._patience.cancelling:
                    raise RunPaused(f"{self._provider.name} does not say whether shard {shard.hash} exists") from None
                self._rest(self._patience.poll)
                continue
            if found is not None or time.monotonic() - asked >= self._patience.doubt:
                return found
            self._rest(min(self._patience.poll, self._patience.doubt / 4))

    def _await(self, shard: Shard, remote: str) -> None:
        """Until the shard has ended."""
        said = ""
        while True:
            standing = self._repeat(lambda: self._provider.check(remote))
            if standing.status != said:
                said = standing.status
                self._book.record_status(shard, said)
            action = judge_batch(standing, time.time() - shard.time, self._patience)
            if action == "collect":
                return
            if action == "cancel":
                self._repeat(lambda: self._provider.cancel(remote))
            if action == "pause":
                hours = (time.time() - shard.time) / 3600
                raise RunPaused(
                    f"{self._provider.name} has had batch {remote} for {hours:.1f} h and says '{said}'; it was not "
                    "sent again, which could be paid twice: the same command asks for it again"
                )
            self._rest(self._patience.poll)

    def _repeat(self, call: Callable[[], T]) -> T:
        """A call that may be repeated without harm, until it succeeds."""
        tries, since = 0, time.monotonic()
        while True:
            self._hold_at_gate()
            try:
                return call()
            except ProviderError as error:
                tries += 1
                since = time.monotonic() if tries == 1 else since
                if error.status == 404:  # what was created is gone, and what it cost with it
                    raise Lost from error
                self._act(self._judge(error, tries, since, "read"), error)

    @property
    def _call(self) -> Call:
        """What kind of creation the provider's is."""
        if self._provider.limits.rows > 1:
            return "create batch"
        return "create" if self._provider.remembers else "create blindly"

    def _judge(self, error: ProviderError, tries: int, since: float, call: Call) -> CallAction:
        return judge_call(error, tries, time.monotonic() - since, self._patience, call, self._provider.name)

    def _act(self, action: CallAction, error: ProviderError) -> None:
        """Does what the decision on a failed call says: waits, or gives up."""
        if isinstance(action, Pause):
            raise RunPaused(action.reason)
        if isinstance(action, Mistake):
            raise UserError(action.reason)
        if isinstance(action, Refuse):
            raise Refused(action.reason) from error
        if isinstance(action, Retry) and action.everyone:
            self._gate = max(self._gate, time.monotonic() + action.seconds)
        self._rest(action.seconds)

    def _gated(self) -> bool:
        return time.monotonic() < self._gate

    def _hold_at_gate(self) -> None:
        while self._gated():
            self._rest(self._gate - time.monotonic())
        if self._stop.is_set():
            raise Interrupted

    def _rest(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Interrupted

    # The end of a run in the middle.

    def _rescue(self, desk: "_Desk", flying: dict["Future[list[Reply]]", Shard], seconds: float) -> None:
        """Takes in what lands within `seconds`: it is paid for. What fails now is left as it is in the book."""
        deadline = time.monotonic() + seconds
        while flying and (left := deadline - time.monotonic()) > 0:
            done, _ = wait(flying, timeout=left, return_when=FIRST_COMPLETED)
            landing = {future: flying.pop(future) for future in done}
            self._left += [shard for future, shard in landing.items() if future.exception() is not None]
            good = {f: s for f, s in landing.items() if isinstance(f.exception(), NeverSent | None)}
            try:
                self._land(desk, good)
            except (RunPaused, UserError):
                continue  # the first such is on its way already

    def _part(self, flying: Iterable[Shard]) -> str:
        """Leaves or cancels the batch jobs under way, and says so."""
        jobs = self._book.jobs(shard.hash for shard in (*flying, *self._left))
        names = ", ".join(jobs)
        if not jobs:
            return ""
        if not self._terms.cancel:
            return f"batch {names} goes on at {self._provider.name} (detached): the same command collects it"
        failed = []
        for job in jobs:
            try:
                self._provider.cancel(job)
            except ProviderError as error:
                failed.append(f"{job}: {describe_error(error)}")
        if failed:
            return f"batch {names} was to be cancelled at {self._provider.name}, which failed: {'; '.join(failed)}"
        return f"batch {names} was cancelled at {self._provider.name}; the same command collects what it had done"

    @contextmanager
    def _workers(self) -> Iterator["Submit"]:
        """A pool of threads that are left behind, not waited for, when something goes wrong."""
        pool = ThreadPoolExecutor(self._provider.limits.parallel, thread_name_prefix="annotation")
        try:
            yield lambda shard, resumed: pool.submit(self._carry, shard, resumed)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


Submit = Callable[[Shard, bool], "Future[list[Reply]]"]


class Refused(Exception):
    """The provider will not take this request."""


class _Desk:
    """Which questions wait to be sent, which are under way, and which are done."""

    def __init__(self, asks: Mapping[Key, Ask], latest: Mapping[Key, Row], provider: Provider) -> None:
        self._provider = provider
        self.total, self.finished = len(asks), 0
        self.todo: deque[tuple[Ask, int]] = deque()
        for key, ask in asks.items():
            row = latest.get(key)
            if row is None:
                self.todo.append((ask, 0))
            elif row.state == "unanswered":
                self.todo.append((ask, row.attempt + 1))
            elif row.state != "sent":
                self.finished += 1

    def take(self, shards: int) -> list[list[tuple[Ask, int]]]:
        """The questions of the next `shards` shards, each within the provider's limits."""
        limits, pieces = self._provider.limits, list[list[tuple[Ask, int]]]()
        while self.todo and len(pieces) < shards:
            piece, size = list[tuple[Ask, int]](), 0
            while self.todo and len(piece) < limits.rows:
                size += self._provider.measure(self.todo[0][0])
                if piece and size > limits.bytes:
                    break
                piece.append(self.todo.popleft())
            pieces.append(piece)
        return pieces

    def put_back(self, pieces: Sequence[Sequence[tuple[Ask, int]]], sent: int) -> None:
        """Returns all but the first `sent` of what was taken."""
        taken = [each for piece in pieces for each in piece]
        self.todo.extendleft(reversed(taken[sent:]))

    def note(self, receipts: Mapping[str, Receipt], shards: Iterable[Shard]) -> None:
        """Questions that stayed unanswered wait again."""
        for shard in shards:
            for sending in shard.sendings:
                receipt = receipts.get(sending.custom_id)
                if receipt is None:
                    continue
                if receipt.state == "unanswered":
                    self.todo.append((sending.ask, sending.attempt + 1))
                else:
                    self.finished += 1
