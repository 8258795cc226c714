"""Works through prompts in one thread: callers first, the run's own batches when nobody else waits.

A batch of the run stops between two tokens for callers who come meanwhile, and goes on afterwards. Callers join the
callers' batch that is under way.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.engines.decoder import TokenRequest, TokenStep

Alive = Callable[[int], bool]
Joining = Callable[[], Sequence[TokenRequest]]
Decode = Callable[[Sequence[TokenRequest], Alive, Joining], Iterator[dict[int, TokenStep]]]


@dataclass(eq=False)
class Job:
    """One prompt of a caller. `tell` hears every step, then None or what went wrong."""

    request: TokenRequest
    tell: Callable[[TokenStep | BaseException | None], None]
    cancelled: bool = False


@dataclass(eq=False)
class _Batch:
    """A batch of the run, whose rows are decoded together, whoever else is there."""

    requests: Sequence[TokenRequest]
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
        """`prepare` runs first, in the thread, as settings of compute threads hold for one thread only.

        `post` carries what a whole pass has to tell to the thread that shall hear it, this one unless given: two
        threads that take turns with every token slow each other down.
        """
        self._decode, self._size, self._prepare, self._post = decode, size, prepare, post
        self._jobs: deque[Job] = deque()
        self._batches: deque[_Batch] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._news = threading.Condition()
        threading.Thread(target=self._work, name="batcher", daemon=True).start()

    def submit(self, job: Job) -> None:
        """A caller's prompt."""
        with self._news:
            self._jobs.append(job)
            self._news.notify()

    def submit_batch(self, requests: Sequence[TokenRequest]) -> Future[list[list[TokenStep]]]:
        """A batch of the run: the steps of each request, in order."""
        batch = _Batch(requests)
        with self._news:
            self._batches.append(batch)
            self._news.notify()
        return batch.done

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Something else to do with the model between two batches, such as loading an adapter."""
        done: Future[Any] = Future()
        with self._news:
            self._calls.append((function, done))
            self._news.notify()
        return done

    @property
    def waiting(self) -> int:
        """Prompts and batches that nobody has begun."""
        return len(self._jobs) + len(self._batches)

    def _work(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._calls or self._jobs or self._batches)
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                _fulfil(call[1], call[0])
            elif self._jobs:
                self._serve_callers()
            else:
                batch = self._batches.popleft()
                _fulfil(batch.done, lambda batch=batch: self._serve_batch(batch.requests))  # type: ignore[misc]

    def _serve_callers(self) -> None:
        jobs = self._take(self._size)
        if not jobs:
            return
        adapters = {job.request.adapter for job in jobs} | {None}
        left = set(range(len(jobs)))

        def join() -> list[TokenRequest]:
            come = self._take(self._size - len(left), adapters)
            left.update(range(len(jobs), len(jobs) + len(come)))
            jobs.extend(come)
            return [job.request for job in come]

        try:
            for steps in self._decode([job.request for job in jobs], lambda row: not jobs[row].cancelled, join):
                over = [row for row in left if jobs[row].cancelled or (row in steps and steps[row].finish)]
                self._tell([(jobs[row], step) for row, step in steps.items()] + [(jobs[row], None) for row in over])
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

    def _take(self, room: int, adapters: set[str | None] | None = None) -> list[Job]:
        """Callers in their order, no further than the first who needs an adapter besides `adapters`.

        Where there is something else to do with the model nobody joins, so that the batch comes to its end.
        """
        jobs: list[Job] = []
        with self._news:
            while self._jobs and len(jobs) < room and not (adapters and self._calls):
                if adapters and self._jobs[0].request.adapter not in adapters:
                    break
                job = self._jobs.popleft()
                jobs += [] if job.cancelled else [job]
        return jobs

    def _serve_batch(self, requests: Sequence[TokenRequest]) -> list[list[TokenStep]]:
        rows: list[list[TokenStep]] = [[] for _ in requests]
        for steps in self._decode(requests, lambda row: True, tuple):
            for row, step in steps.items():
                rows[row].append(step)
            while self._jobs:
                self._serve_callers()
        return rows


def _fulfil(done: "Future[Any]", function: Callable[[], Any]) -> None:
    try:
        done.set_result(function())
    except Exception as error:
        done.set_exception(error)
