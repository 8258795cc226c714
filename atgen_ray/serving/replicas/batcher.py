"""Works through prompts in one thread: callers first, the run's own batches when nobody else waits.

Callers join the callers' batch that is under way between two tokens, whatever adapter they need. A
batch of the run stops between two tokens for callers who come meanwhile, and goes on afterwards.
Whoever goes away is given up at the next step, wherever it stands: waiting, about to be loaded for,
or decoded.
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
    """What there is to prepare for the base model."""


@dataclass(eq=False)
class Job:
    """One prompt of a caller. `tell` hears every step, then None or what went wrong.

    `prepare` runs before the prompt is decoded, in the thread: it loads the adapter that the prompt
    needs.
    """

    request: TokenRequest
    tell: Callable[[TokenStep | BaseException | None], None]
    prepare: Prepare = _nothing
    cancelled: bool = False


@dataclass(eq=False)
class _Batch:
    """A batch of the run, whose rows are decoded together, whoever else is there. Its future may be
    cancelled.
    """

    requests: Sequence[TokenRequest]
    prepare: Prepare = _nothing
    done: Future[list[list[TokenStep]]] = field(default_factory=Future)


def _call(function: Callable[[], None]) -> None:
    function()


class Batcher:
    """The one user of a model: everything that touches it happens in this thread."""

    def __init__(
        self,
        decode: Decode,
        size: int,
        prepare: Callable[[], Any] | None = None,
        post: Callable[[Callable[[], None]], Any] = _call,
    ) -> None:
        """`prepare` runs first, in the thread, as settings of compute threads hold for one thread
        only.

        `post` carries what a whole pass has to tell to the thread that shall hear it, this one
        unless given: two threads that take turns with every token slow each other down.
        """
        self._decode = decode
        self._size = size
        self._prepare = prepare
        self._post = post
        self._jobs: deque[Job] = deque()
        self._batches: deque[_Batch] = deque()
        self._news = threading.Condition()
        self._busy_since: float | None = (
            None  # when the step under way began; None while there is nothing to do
        )
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """A caller's prompt."""
        with self._news:
            self._jobs.append(job)
            self._news.notify()

    def submit_batch(
        self, requests: Sequence[TokenRequest], prepare: Prepare = _nothing
    ) -> Future[list[list[TokenStep]]]:
        """A batch of the run: the steps of each request, in order. Cancelling the future gives the
        batch up.
        """
        batch = _Batch(requests, prepare)
        with self._news:
            self._batches.append(batch)
            self._news.notify()
        return batch.done

    @property
    def waiting(self) -> int:
        """Prompts and batches that nobody has begun, and that somebody waits for."""
        with self._news:
            jobs = sum(not job.cancelled for job in self._jobs)
            return jobs + sum(not batch.done.cancelled() for batch in self._batches)

    def check(self, stall_seconds: float) -> None:
        """Raises EngineStuckError when the thread has ended, or has been at one step for longer
        than `stall_seconds`.
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
        """Notes that the engine goes on."""
        self._busy_since = time.monotonic()

    def _serve_callers(self) -> None:
        jobs = self._take(self._size)
        if not jobs:
            return
        left = set(range(len(jobs)))

        def join() -> list[TokenRequest]:
            come = self._take(self._size - len(left))
            left.update(range(len(jobs), len(jobs) + len(come)))
            jobs.extend(come)
            return [job.request for job in come]

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
                self._tell(
                    [(jobs[row], step) for row, step in steps.items()]
                    + [(jobs[row], None) for row in over]
                )
                left.difference_update(over)
        except Exception as error:  # told to every caller who waits; the thread itself goes on
            self._tell([(jobs[row], error) for row in left])
        else:
            self._tell([(jobs[row], None) for row in left])

    def _tell(self, news: Sequence[tuple[Job, TokenStep | BaseException | None]]) -> None:
        def tell() -> None:
            for job, what in news:
                job.tell(what)

        self._post(tell)

    def _take(self, room: int) -> list[Job]:
        """Callers in their order, with what each needs in place; one for whom that fails is told,
        and not taken.
        """
        taken: list[Job] = []
        while len(taken) < room and (job := self._next_job()) is not None:
            try:
                job.prepare()
            except (
                Exception
            ) as error:  # an adapter that cannot be loaded is its caller's matter alone
                self._tell([(job, error)])
            else:
                taken += [] if job.cancelled else [job]
            self._step()
        return taken

    def _next_job(self) -> Job | None:
        """The first who still listens."""
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
            if batch.done.set_running_or_notify_cancel():  # from here on it cannot be cancelled
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
