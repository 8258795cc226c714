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
    """Decodes prompt [n, ...] into n+1, n+2, ...; where the first n is 1000 or more, each step waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.log: list[int] = []

    def __call__(
        self,
        requests: Sequence[TokenRequest],
        alive: Callable[[int], bool],
        joining: Callable[[], Sequence[TokenRequest]],
    ) -> Iterator[dict[int, TokenStep]]:
        rows, lengths = list(requests), [0] * len(requests)
        held = requests[0].token_ids[0] >= 1000
        going = set(range(len(rows)))
        while going:
            if held and not self.go.acquire(timeout=LIMIT):
                raise TimeoutError
            steps = {}
            for row in sorted(going):
                request = rows[row]
                if request.token_ids[0] < 0:
                    raise ValueError("poison")
                self.log.append(request.token_ids[0])
                lengths[row] += 1
                finish = "length" if lengths[row] == request.max_new_tokens else None
                steps[row] = TokenStep(request.token_ids[0] + lengths[row], 0.0, 0.0, finish=finish)
            yield steps
            going -= {row for row, step in steps.items() if step.finish or not alive(row)}
            come = joining() if going else ()
            going |= set(range(len(rows), len(rows) + len(come)))
            rows, lengths = [*rows, *come], lengths + [0] * len(come)


def ask(batcher: Batcher, first: int, length: int = 2, adapter: str | None = None) -> "Queue[Any]":
    told: Queue[Any] = Queue()
    batcher.submit(Job(TokenRequest([first], length, adapter=adapter), told.put))
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


def begin(batcher: Batcher, script: Script, adapter: str | None = None) -> "Queue[Any]":
    """A caller with a long answer, of which the first token has come."""
    told = ask(batcher, 1000, 100, adapter)
    script.go.release()
    assert told.get(timeout=LIMIT).token == 1001
    return told


def test_callers_join_the_batch_under_way_and_leave_it_when_they_have_ended() -> None:
    script = Script()
    batcher = Batcher(script, 2)
    first = begin(batcher, script)
    second, third = ask(batcher, 10, 1), ask(batcher, 20, 1)  # there is room for one more
    script.go.release(2)
    assert [step.token for step in read(second)[:-1]] == [11]
    script.go.release(2)
    assert [step.token for step in read(third)[:-1]] == [21]
    script.go.release(100)
    assert [step.token for step in read(first)[:-1]] == list(range(1002, 1101))


def test_nobody_joins_who_needs_another_adapter_or_while_the_model_is_wanted() -> None:
    script = Script()
    batcher = Batcher(script, 8)
    first = begin(batcher, script, "a")
    other, behind = ask(batcher, 10, 1, "b"), ask(batcher, 20, 1, "a")
    script.go.release(98)
    while script.log.count(1000) < 99:
        pass
    assert other.empty()
    assert behind.empty()  # who came first is served first
    script.go.release()
    assert [len(read(each)) for each in (first, other, behind)] == [100, 2, 2]
    first = begin(batcher, script)
    called, late = batcher.call(lambda: list(script.log)), ask(batcher, 30, 1)
    script.go.release(100)
    assert called.result(LIMIT).count(30) == 0
    assert [len(read(each)) for each in (first, late)] == [100, 2]


def test_who_gives_up_hears_the_end_at_once() -> None:
    script, told = Script(), Queue[Any]()
    batcher = Batcher(script, 8)
    first = begin(batcher, script)
    job = Job(TokenRequest([10], 1000), told.put)
    batcher.submit(job)
    script.go.release(2)
    assert told.get(timeout=LIMIT).token == 11
    job.cancelled = True
    script.go.release(2)
    while told.get(timeout=LIMIT) is not None:
        pass
    assert batcher.submit_batch([TokenRequest([50], 1)]).done() is False
    script.go.release(100)
    assert len(read(first)) == 100
