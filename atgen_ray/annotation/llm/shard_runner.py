"""Carries one shard of questions from wherever it is to its replies, in a worker thread."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from atgen_ray.annotation.llm.error_policy import (
    Abort,
    Call,
    CallAction,
    LookUp,
    Pause,
    Refuse,
    Retry,
    Timeouts,
    judge_batch,
    judge_call,
)
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.providers.base import (
    LookupPendingError,
    Provider,
    ProviderError,
    RawResponse,
    Shard,
    SubmittedShard,
)
from atgen_ray.core.errors import RunPaused, UserError

T = TypeVar("T")


class RunnerInterruptedError(Exception):
    """A worker was told to leave its shard as it is; the book knows where."""


class NotSentError(Exception):
    """The shard was given up before anything of it went out; the cause says why."""


class UnknownOutcomeError(Exception):
    """The shard may have been created, and nobody can tell."""


class RequestRefusedError(Exception):
    """The provider will not take this request."""


class ShardRunner:
    """Takes shards through a provider's hooks; safe to use from several threads at once."""

    def __init__(self, provider: Provider, book: RequestLog, patience: Timeouts) -> None:
        self._provider = provider
        self._book = book
        self._patience = patience
        self._stop = threading.Event()
        self._gate = 0.0  # no call before this moment

    def interrupt(self) -> None:
        """Every shard is left as it is, as soon as its thread can."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """No call to the provider for so long."""
        self._gate = time.monotonic() + seconds

    @property
    def gated_for(self) -> float:
        """Seconds in which no call may be made; 0 or less when one may."""
        return self._gate - time.monotonic()

    def run_shard(self, shard: Shard, resumed: bool) -> list[RawResponse]:
        """A shard from wherever it is to its replies.

        Raises:
            RunnerInterruptedError: see `interrupt`.
            NotSentError: nothing of it went out.
            UnknownOutcomeError: it may have been created, and nobody can tell.
            RunPaused: the provider turns us away, or is stuck.
            UserError: the configuration is wrong.
        """
        try:
            ticket = self._open(shard, resumed)
        except RequestRefusedError as refusal:
            return [
                RawResponse(sending.custom_id, code="refused", message=str(refusal))
                for sending in shard.sendings
            ]
        if ticket.replies is None:
            self._await(shard, ticket.remote)
            return self._repeat(lambda: [*self._provider.collect(shard, ticket.remote)])
        return [*ticket.replies]

    def _open(self, shard: Shard, resumed: bool) -> SubmittedShard:
        """The created shard; one that may have been created before is looked for first."""
        if shard.remote is not None:
            return SubmittedShard(shard.remote)
        tries = 0
        since = time.monotonic()
        look = resumed
        doubtful = resumed
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
                    doubtful = look = isinstance(action, LookUp)
                    self._act(action, error)
        except (RunnerInterruptedError, RunPaused, UserError) as error:
            if doubtful:
                raise
            raise NotSentError from error

    def _created(self, shard: Shard, ticket: SubmittedShard) -> SubmittedShard:
        if ticket.replies is None:  # else the answer itself is the receipt, and follows at once
            self._book.record_created(shard, ticket.remote)
        return ticket

    def _find(self, shard: Shard) -> SubmittedShard | None:
        """The shard at the provider; None when it is certainly not there."""
        if not self._provider.remembers:
            raise UnknownOutcomeError
        asked = time.monotonic()
        while True:
            known = self._book.known_remotes()
            try:
                found = self._repeat(partial(self._provider.find, shard, known))
            except LookupPendingError:
                if time.time() - shard.time > self._patience.batch + self._patience.cancelling:
                    raise RunPaused(
                        f"{self._provider.name} does not say whether shard {shard.hash} exists"
                    ) from None
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
                    f"{self._provider.name} has had batch {remote} for {hours:.1f} h and says "
                    f"'{said}'; it was not "
                    "sent again, which could be paid twice: the same command asks for it again"
                )
            self._rest(self._patience.poll)

    def _repeat(self, call: Callable[[], T]) -> T:
        """A call that may be repeated without harm, until it succeeds."""
        tries = 0
        since = time.monotonic()
        while True:
            self._hold_at_gate()
            try:
                return call()
            except ProviderError as error:
                tries += 1
                since = time.monotonic() if tries == 1 else since
                if error.status == 404:  # what was created is gone, and what it cost with it
                    raise UnknownOutcomeError from error
                self._act(self._judge(error, tries, since, "read"), error)

    @property
    def _call(self) -> Call:
        """What kind of creation the provider's is."""
        if self._provider.limits.rows > 1:
            return "create batch"
        return "create" if self._provider.remembers else "create blindly"

    def _judge(self, error: ProviderError, tries: int, since: float, call: Call) -> CallAction:
        return judge_call(
            error, tries, time.monotonic() - since, self._patience, call, self._provider.name
        )

    def _act(self, action: CallAction, error: ProviderError) -> None:
        """Does what the decision on a failed call says: waits, or gives up."""
        if isinstance(action, Pause):
            raise RunPaused(action.reason)
        if isinstance(action, Abort):
            raise UserError(action.reason)
        if isinstance(action, Refuse):
            raise RequestRefusedError(action.reason) from error
        if isinstance(action, Retry) and action.everyone:
            self._gate = max(self._gate, time.monotonic() + action.seconds)
        self._rest(action.seconds)

    def _hold_at_gate(self) -> None:
        while (seconds := self.gated_for) > 0:
            self._rest(seconds)
        if self._stop.is_set():
            raise RunnerInterruptedError

    def _rest(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise RunnerInterruptedError
