"""The one thread that uses a model: callers interrupt the run's batches, and nothing is lost."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import Any

import pytest

from atgen_ray.engines.decoder import TokenRequest, TokenStep
from atgen_ray.serving.batcher import Batcher, Job

LIMIT = 20


class Script:
    """Decodes prompt [n, ...] into the tokens n+1, n+2, ...; a run's batch waits for `go` before each step."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.log: list[int] = []

    def __call__(
        self, requests: Sequence[TokenRequest], alive: Callable[[int], bool]
    ) -> Iterator[dict[int, TokenStep]]:
        for step in range(max(request.max_new_tokens for request in requests)):
            if requests[0].token_ids[0] >= 1000 and not self.go.acquire(timeout=LIMIT):
                raise TimeoutError
            rows = {}
            for row, request in enumerate(requests):
                if step < request.max_new_tokens and alive(row):
                    if request.token_ids[0] < 0:
                        raise ValueError("poison")
                    self.log.append(request.token_ids[0])
                    last = step + 1 == request.max_new_tokens
                    rows[row] = TokenStep(request.token_ids[0] + step + 1, 0.0, 0.0, finish="length" if last else None)
            yield rows


def ask(batcher: Batcher, first: int, length: int = 2) -> "Queue[Any]":
    told: Queue[Any] = Queue()
    batcher.submit(Job(TokenRequest([first], length), told.put))
    return told


def read(told: "Queue[Any]") -> list[Any]:
    heard = []
    while not heard or isinstance(heard[-1], TokenStep):
        heard.append(told.get(timeout=LIMIT))
    return heard


def test_a_caller_is_answered_between_two_tokens_of_the_run() -> None:
    script = Script()
    batcher = Batcher(script, 4)
    run = batcher.submit_batch([TokenRequest([1000], 3), TokenRequest([2000], 2)])
    script.go.release()
    while not script.log:
        pass
    told = ask(batcher, 10)
    script.go.release()  # the run goes on by one step, and then the caller has its turn
    assert [step.token for step in read(told)[:-1]] == [11, 12]
    assert not run.done()
    script.go.release()
    assert [[step.token for step in row] for row in run.result(LIMIT)] == [[1001, 1002, 1003], [2001, 2002]]
    assert script.log.index(10) < len(script.log) - 1


def test_what_fails_is_told_and_the_thread_goes_on() -> None:
    batcher = Batcher(Script(), 4)
    assert isinstance(read(ask(batcher, -1))[-1], ValueError)
    with pytest.raises(ValueError, match="poison"):
        batcher.submit_batch([TokenRequest([-1], 1)]).result(LIMIT)
    with pytest.raises(ZeroDivisionError):
        batcher.call(lambda: 1 // 0).result(LIMIT)
    assert [step.token for step in read(ask(batcher, 5))[:-1]] == [6, 7]


def test_callers_share_a_batch_and_a_cancelled_one_stops() -> None:
    batcher, started = Batcher(Script(), 8), threading.Event()
    hold = batcher.call(lambda: started.wait(LIMIT))
    told = [ask(batcher, first, 3) for first in (10, 20)]
    gone: Queue[Any] = Queue()
    job = Job(TokenRequest([30], 1000), gone.put)
    job.cancelled = True
    batcher.submit(job)
    assert batcher.waiting == 3
    started.set()
    assert hold.result(LIMIT)
    assert [[step.token for step in read(each)[:-1]] for each in told] == [[11, 12, 13], [21, 22, 23]]
    assert gone.empty()
