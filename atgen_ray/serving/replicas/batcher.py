"""Continuous batching of prompts in one thread. Callers' prompts go first; batches of runs are
decoded while no caller waits.

Invariants:
- All use of the model happens in this one thread.
- A caller's prompt joins the callers' batch between two tokens, whatever adapter it needs.
- A run's batch pauses between two tokens for callers, and continues afterwards.
- A cancelled prompt is dropped at the next step, whether it waits, loads its adapter or is decoded.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.serving.replicas.health import EngineStuckError

Alive = Callable[[int], bool]
Joining = Callable[[], Sequence[TokenRequest]]
Decode = Callable[[Sequence[TokenRequest], Alive, Joining], Iterator[dict[int, TokenStep]]]
Prepare = Callable[[], object]


def _nothing() -> None:
    """Prepare nothing: the base model needs no adapter."""


@dataclass(eq=False)
class Job:
    """One prompt of a caller.

    `report` is called with every step, and last with None or the error. `prepare` is called in the
    batcher's thread before the prompt is decoded: it loads the adapter that the prompt needs.
    """

    request: TokenRequest
    report: Callable[[TokenStep | BaseException | None], None]
    prepare: Prepare = _nothing
    cancelled: bool = False


@dataclass(eq=False)
class _Batch:
    """A batch of a run, whose rows are decoded together. Its future may be cancelled."""

    requests: Sequence[TokenRequest]
    prepare: Prepare = _nothing
    done: Future[list[list[TokenStep]]] = field(default_factory=Future)


def _call(function: Callable[[], None]) -> None:
    function()


class Batcher:
    """Thread that decodes prompts, and the queues in front of it."""

    def __init__(
        self,
        decode: Decode,
        size: int,
        prepare: Callable[[], Any] | None = None,
        post: Callable[[Callable[[], None]], Any] = _call,
    ) -> None:
        """Start the thread.

        Args:
            decode: decodes a batch, as `AdapterCache.decode`.
            size: prompts of callers that are decoded at once.
            prepare: called first, in the thread: torch sets compute threads for one thread only.
            post: runs the reports of a whole forward pass in the thread that receives them; by
                default in the batcher's. Two threads that alternate with every token would slow
                each other down.
        """
        self._decode = decode
        self._size = size
        self._prepare = prepare
        self._post = post
        self._jobs: deque[Job] = deque()
        self._batches: deque[_Batch] = deque()
        self._news = threading.Condition()
        self._busy_since: float | None = None  # start of the step under way; None while idle
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a caller's prompt."""
        with self._news:
            self._jobs.append(job)
            self._news.notify()

    def submit_batch(
        self, requests: Sequence[TokenRequest], prepare: Prepare = _nothing
    ) -> Future[list[list[TokenStep]]]:
        """Queue a run's batch; return a future of the steps of each request, in order. Cancelling
        the future drops the batch.
        """
        batch = _Batch(requests, prepare)
        with self._news:
            self._batches.append(batch)
            self._news.notify()
        return batch.done

    @property
    def waiting(self) -> int:
        """Return the number of prompts and batches that are queued and not cancelled."""
        with self._news:
            jobs = sum(not job.cancelled for job in self._jobs)
            return jobs + sum(not batch.done.cancelled() for batch in self._batches)

    def check(self, stall_seconds: float) -> None:
        """Raise EngineStuckError if the thread has ended, or is at one step for longer than
        `stall_seconds`.
        """
        if not self._thread.is_alive():
            raise EngineStuckError("the thread that decodes has ended")
        since = self._busy_since
        if since is not None and time.monotonic() - since > stall_seconds:
            raise EngineStuckError(f"the engine has made no step for more than {stall_seconds:g} s")

    def _work(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while True:
            self._busy_since = None
            with self._news:
                self._news.wait_for(lambda: self._jobs or self._batches)
            self._step()
            if self._jobs:
                self._serve_callers()
            else:
                self._serve_batch(self._batches.popleft())

    def _step(self) -> None:
        """Note that the engine has made a step."""
        self._busy_since = time.monotonic()

    def _serve_callers(self) -> None:
        jobs = self._take(self._size)
        if not jobs:
            return
        left = set(range(len(jobs)))

        def join() -> list[TokenRequest]:
            joined = self._take(self._size - len(left))
            left.update(range(len(jobs), len(jobs) + len(joined)))
            jobs.extend(joined)
            return [job.request for job in joined]

        try:
            for steps in self._decode(
                [job.request for job in jobs], lambda row: not jobs[row].cancelled, join
            ):
                self._step()
                over = [
                    row
                    for row in left
                    if jobs[row].cancelled or (row in steps and steps[row].finish)
                ]
                self._report(
                    [(jobs[row], step) for row, step in steps.items()]
                    + [(jobs[row], None) for row in over]
                )
                left.difference_update(over)
        except Exception as error:  # reported to every caller of the batch; the thread goes on
            self._report([(jobs[row], error) for row in left])
        else:
            self._report([(jobs[row], None) for row in left])

    def _report(self, news: Sequence[tuple[Job, TokenStep | BaseException | None]]) -> None:
        def report() -> None:
            for job, step in news:
                job.report(step)

        self._post(report)

    def _take(self, room: int) -> list[Job]:
        """Take up to `room` prompts of callers in their order, with their adapters loaded. A prompt
        whose adapter fails to load gets the error and is not taken.
        """
        taken: list[Job] = []
        while len(taken) < room and (job := self._next_job()) is not None:
            try:
                job.prepare()
            except Exception as error:  # a failure to load concerns this caller alone
                self._report([(job, error)])
            else:
                taken += [] if job.cancelled else [job]
            self._step()
        return taken

    def _next_job(self) -> Job | None:
        """Return the first prompt that is not cancelled, or None."""
        with self._news:
            while self._jobs:
                job = self._jobs.popleft()
                if not job.cancelled:
                    return job
        return None

    def _serve_batch(self, batch: _Batch) -> None:
        try:
            rows = self._decode_batch(batch)
        except Exception as error:
            if batch.done.set_running_or_notify_cancel():  # later it cannot be cancelled
                batch.done.set_exception(error)
        else:
            if batch.done.set_running_or_notify_cancel():
                batch.done.set_result(rows)

    def _decode_batch(self, batch: _Batch) -> list[list[TokenStep]]:
        rows: list[list[TokenStep]] = [[] for _ in batch.requests]
        if batch.done.cancelled():
            return rows
        batch.prepare()
        for steps in self._decode(batch.requests, lambda row: not batch.done.cancelled(), tuple):
            self._step()
            for row, step in steps.items():
                rows[row].append(step)
            while self._jobs:
                self._serve_callers()
        return rows
