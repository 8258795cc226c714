"""Runs one shard of requests from any state to its replies, in a worker thread.

A shard that may exist at the provider is looked up before it is created, so that nothing is paid
twice.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
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
    describe_error,
    judge_batch,
    judge_call,
)
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.providers.base import (
    LookupPendingError,
    Provider,
    ProviderError,
    RawResponse,
    ResultsPendingError,
    Shard,
    SubmittedShard,
)
from atgen_ray.core.errors import RunPaused, UserError
from atgen_ray.core.machine import machine

T = TypeVar("T")


class RunnerInterruptedError(Exception):
    """The thread was told to leave its shard; the request log has its state."""


class NotSentError(Exception):
    """The shard was given up before any of it was sent; the cause says why."""


class UnknownOutcomeError(Exception):
    """The shard may have been created, and there is no way to find out."""


class RequestRefusedError(Exception):
    """The provider rejects this shard; `code` says why, as that of a reply does."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ShardRunner:
    """Runs shards through a provider's hooks; safe to use from several threads at once."""

    def __init__(self, provider: Provider, request_log: RequestLog, timeouts: Timeouts) -> None:
        self._provider = provider
        self._request_log = request_log
        self._timeouts = timeouts
        self._stop = machine().event()
        self._blocked_until = 0.0  # monotonic time before which no call is made
        self.answered = 0  # shards that the provider has answered
        self.last_error = ""  # of a call, in a few words
        self.failed = -math.inf  # monotonic time of the last error

    def interrupt(self) -> None:
        """Tell every thread to leave its shard as it is."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Make no call to the provider for `seconds`."""
        self._blocked_until = machine().monotonic() + seconds

    def note(self, error: str) -> None:
        """Keep an error for those who look at the run."""
        self.last_error = error
        self.failed = machine().monotonic()

    @property
    def blocked_for(self) -> float:
        """Return the seconds for which no call may be made; 0 or less when one may."""
        return self._blocked_until - machine().monotonic()

    def run_shard(self, shard: Shard, resumed: bool) -> list[RawResponse]:
        """Return the replies to a shard, whatever its state was.

        Raises:
            RunnerInterruptedError: see `interrupt`.
            NotSentError: nothing of it went out.
            UnknownOutcomeError: it may have been created, and nobody can tell.
            RunPaused: the provider turns us away, or is stuck.
            UserError: the configuration is wrong.
        """
        try:
            submitted = self._open(shard, resumed)
        except RequestRefusedError as refusal:
            return [
                RawResponse(attempt.custom_id, code=refusal.code, message=str(refusal))
                for attempt in shard.attempts
            ]
        replies: Sequence[RawResponse] | None = submitted.replies
        if replies is None:
            self._await(shard, submitted.remote)
            replies = self._collect(shard, submitted.remote)
        self.answered += any(reply.body is not None for reply in replies)
        return [*replies]

    def _open(self, shard: Shard, resumed: bool) -> SubmittedShard:
        """Return the submitted shard; look it up first if it may have been created before."""
        if shard.remote is not None:
            return SubmittedShard(shard.remote)
        if not resumed and (found := self._find_lost(shard)):
            return self._created(shard, found)
        tries = 0
        since = machine().monotonic()
        answered = self.answered
        look = resumed
        ambiguous = resumed
        try:
            while True:
                if look and (found := self._find(shard)):
                    return self._created(shard, found)
                # From here to the call nothing of this shard exists at the provider, so an
                # interruption is no ambiguous outcome.
                ambiguous = False
                self._wait_until_allowed()
                self._request_log.confirm_lease()
                ambiguous = True
                try:
                    return self._created(shard, self._provider.create(shard))
                except ProviderError as error:
                    tries += 1
                    since = machine().monotonic() if tries == 1 else since
                    others = self.answered > answered
                    action = self._judge(error, tries, since, self._call, others)
                    ambiguous = look = isinstance(action, LookUp)
                    self._act(action, error)
        except (RunnerInterruptedError, RunPaused, UserError) as error:
            if ambiguous:
                raise
            raise NotSentError from error

    def _created(self, shard: Shard, submitted: SubmittedShard) -> SubmittedShard:
        # Replies that came at once are settled in the next step, which records the creation too.
        """Record the creation of a shard."""
        if submitted.replies is None:
            self._request_log.record_created(shard, submitted.remote)
        return submitted

    def _find_lost(self, shard: Shard) -> SubmittedShard | None:
        """Return a shard that was created in a time of which the journal knows nothing; None when
        it certainly was not, or where nobody can tell.
        """
        lost = self._request_log.lost
        if lost is None or not self._provider.remembers:
            return None
        earlier = replace(shard, time=lost.since)
        try:
            while True:
                known = self._request_log.known_remotes()
                try:
                    return self._repeat(partial(self._provider.find, earlier, known), lookup=True)
                except LookupPendingError:
                    # What is not over by now is younger than the lost time, and another's.
                    longest = self._timeouts.batch + self._timeouts.cancelling
                    if machine().time() - lost.until > longest:
                        return None
                    self._sleep(self._timeouts.poll)
        except UnknownOutcomeError:
            return None
        except (RunnerInterruptedError, RunPaused, UserError) as error:
            raise NotSentError from error

    def _find(self, shard: Shard) -> SubmittedShard | None:
        """Return the shard at the provider, or None when it certainly does not exist."""
        if not self._provider.remembers:
            raise UnknownOutcomeError
        asked = machine().monotonic()
        while True:
            known = self._request_log.known_remotes()
            try:
                found = self._repeat(partial(self._provider.find, shard, known), lookup=True)
            except LookupPendingError:
                if machine().time() - shard.time > self._timeouts.batch + self._timeouts.cancelling:
                    raise RunPaused(
                        f"{self._provider.name} does not say whether shard {shard.hash} exists"
                    ) from None
                self._sleep(self._timeouts.poll)
                continue
            if found is not None or machine().monotonic() - asked >= self._timeouts.lookup:
                return found
            self._sleep(min(self._timeouts.poll, self._timeouts.lookup / 4))

    def _await(self, shard: Shard, remote: str) -> None:
        """Wait until the shard has ended."""
        said = ""
        while True:
            batch = self._repeat(lambda: self._provider.check(remote))
            status = f"{batch.status} ({batch.counts})" if batch.counts else batch.status
            if status != said:
                said = status
                self._request_log.record_status(shard, said)
            action = judge_batch(batch, machine().time() - shard.time, self._timeouts)
            if action == "collect":
                return
            if action == "cancel":
                # It may have ended since the last look: the next one decides.
                with suppress(ProviderError):
                    self._provider.cancel(remote)
            if action == "pause":
                hours = (machine().time() - shard.time) / 3600
                raise RunPaused(
                    f"{self._provider.name} has had batch {remote} for {hours:.1f} h and says "
                    f"'{said}'; it was not "
                    "sent again, which could be paid twice: the same command asks for it again"
                )
            self._sleep(self._timeouts.poll)

    def _collect(self, shard: Shard, remote: str) -> Sequence[RawResponse]:
        """Return the replies of an ended shard; wait for those that the provider counts but does
        not hand out yet.
        """
        since = machine().monotonic()
        while True:
            try:
                return self._repeat(lambda: self._provider.collect(shard, remote))
            except ResultsPendingError as pending:
                self.note(f"batch {remote} has ended, but {pending}")
                if machine().monotonic() - since >= self._timeouts.missing:
                    if pending.replies is not None:
                        return pending.replies
                    raise RunPaused(
                        f"{self._provider.name} has ended batch {remote} without handing out all "
                        f"of it ({pending}). Nothing was given up: the same command asks for it "
                        f"again"
                    ) from None
            self._sleep(min(self._timeouts.poll, self._timeouts.missing / 4))

    def _repeat(self, call: Callable[[], T], lookup: bool = False) -> T:
        """Make a call that is safe to repeat, until it succeeds; `lookup` says that it looks for a
        shard.
        """
        tries = 0
        since = machine().monotonic()
        while True:
            self._wait_until_allowed()
            try:
                return call()
            except ProviderError as error:
                tries += 1
                since = machine().monotonic() if tries == 1 else since
                # A server that keeps no single requests has no list of them.
                if lookup and self._provider.limits.rows == 1 and error.status in (404, 405, 501):
                    raise UnknownOutcomeError from error
                self._act(self._judge(error, tries, since, "read"), error)

    @property
    def _call(self) -> Call:
        """Return which kind of creation the provider's is."""
        if self._provider.limits.rows > 1:
            return "create batch"
        return "create" if self._provider.remembers else "create blindly"

    def _judge(
        self, error: ProviderError, tries: int, since: float, call: Call, others: bool = False
    ) -> CallAction:
        self.note(describe_error(error))
        return judge_call(
            error,
            tries,
            machine().monotonic() - since,
            self._timeouts,
            call,
            self._provider.name,
            self.answered > 0,
            others,
        )

    def _act(self, action: CallAction, error: ProviderError) -> None:
        """Carry out the decision on a failed call: wait, or give up."""
        if isinstance(action, Pause):
            raise RunPaused(action.reason)
        if isinstance(action, Abort):
            raise UserError(action.reason)
        if isinstance(action, Refuse):
            raise RequestRefusedError(action.reason, action.code) from error
        if isinstance(action, Retry) and action.everyone:
            self._blocked_until = max(self._blocked_until, machine().monotonic() + action.seconds)
        self._sleep(action.seconds)

    def _wait_until_allowed(self) -> None:
        while (seconds := self.blocked_for) > 0:
            self._sleep(seconds)
        if self._stop.is_set():
            raise RunnerInterruptedError

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise RunnerInterruptedError
