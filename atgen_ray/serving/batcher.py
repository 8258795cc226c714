"""Works through prompts in one thread: callers first, the run's own batches when nobody else waits.

A batch of the run stops between two tokens for callers who come meanwhile, and goes on afterwards.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.engines.decoder import TokenRequest, TokenStep

Decode = Callable[[Sequence[TokenRequest], Callable[[int], bool]], Iterator[dict[int, TokenStep]]]


@dataclass(eq=False)
class Job:
    """One prompt of a caller. `tell` hears every step, then None or what went wrong, in the batcher's thread."""

    request: TokenRequest
    tell: Callable[[TokenStep | BaseException | None], None]
    cancelled: bool = False


@dataclass(eq=False)
class _Batch:
    """A batch of the run, whose rows are decoded together, whoever else is there."""

    requests: Sequence[TokenRequest]
    done: Future[list[list[TokenStep]]] = field(default_factory=Future)


class Batcher:
    """The one user of a model: everything that touches it happens in this thread."""

    def __init__(self, decode: Decode, size: int, prepare: Callable[[], Any] | None = None) -> None:
        """`prepare` runs first, in the thread, as settings of compute threads hold for one thread only."""
        self._decode, self._size, self._prepare = decode, size, prepare
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
        with self._news:
            jobs = [self._jobs.popleft() for _ in range(min(self._size, len(self._jobs)))]
        jobs = [job for job in jobs if not job.cancelled]
        if not jobs:
            return
        try:
            for steps in self._decode([job.request for job in jobs], lambda row: not jobs[row].cancelled):
                for row, step in steps.items():
                    jobs[row].tell(step)
        except Exception as error:  # told to every caller of the batch; the thread itself goes on
            for job in jobs:
                job.tell(error)
        else:
            for job in jobs:
                job.tell(None)

    def _serve_batch(self, requests: Sequence[TokenRequest]) -> list[list[TokenStep]]:
        rows: list[list[TokenStep]] = [[] for _ in requests]
        for steps in self._decode(requests, lambda row: True):
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
