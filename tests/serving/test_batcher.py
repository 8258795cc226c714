"""The one thread that uses a model: callers interrupt the run's batches, and nothing is lost."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import Any

import pytest

from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.serving.replicas.batcher import Batcher, Job, Prepare
from atgen_ray.serving.replicas.health import EngineStuckError

LIMIT = 20


class Script:
    """Decodes prompt [n, ...] into n+1, n+2, ...; where the first n is 1000 or more, each step
    waits for `go`.
    """

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


def ask(
    batcher: Batcher,
    first: int,
    length: int = 2,
    adapter: str | None = None,
    prepare: Prepare = lambda: None,
) -> "Queue[Any]":
    told: Queue[Any] = Queue()
    batcher.submit(Job(TokenRequest([first], length, adapter=adapter), told.put, prepare))
    return told


def read(told: "Queue[Any]") -> list[Any]:
    heard: list[Any] = []
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
    assert [[step.token for step in row] for row in run.result(LIMIT)] == [
        [1001, 1002, 1003],
        [2001, 2002],
    ]
    assert script.log.index(10) < len(script.log) - 1


def test_what_fails_is_told_and_the_thread_goes_on() -> None:
    batcher = Batcher(Script(), 4)
    assert isinstance(read(ask(batcher, -1))[-1], ValueError)
    with pytest.raises(ValueError, match="poison"):
        batcher.submit_batch([TokenRequest([-1], 1)]).result(LIMIT)
    with pytest.raises(ZeroDivisionError):
        batcher.submit_batch([TokenRequest([1], 1)], lambda: 1 // 0).result(LIMIT)
    assert isinstance(read(ask(batcher, 1, prepare=lambda: 1 // 0))[-1], ZeroDivisionError)
    assert [step.token for step in read(ask(batcher, 5))[:-1]] == [6, 7]


def hold(batcher: Batcher, until: threading.Event) -> "Queue[Any]":
    """A caller whose adapter is being loaded until then."""
    begun = threading.Event()

    def load() -> None:
        begun.set()
        assert until.wait(LIMIT)

    told = ask(batcher, 1, 1, "slow", load)
    assert begun.wait(LIMIT)
    return told


def test_callers_share_a_batch_and_a_cancelled_one_stops() -> None:
    batcher, started = Batcher(Script(), 8), threading.Event()
    held = hold(batcher, started)
    told = [ask(batcher, first, 3) for first in (10, 20)]
    gone: Queue[Any] = Queue()
    job = Job(TokenRequest([30], 1000), gone.put)
    job.cancelled = True
    batcher.submit(job)
    assert batcher.waiting == 2  # nobody waits for the third
    started.set()
    assert [step.token for step in read(held)[:-1]] == [2]
    assert [[step.token for step in read(each)[:-1]] for each in told] == [
        [11, 12, 13],
        [21, 22, 23],
    ]
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


def test_callers_join_whatever_adapter_they_need_and_nobody_waits_behind_them() -> None:
    script, loaded = Script(), []
    batcher = Batcher(script, 8)
    first = begin(batcher, script, "a")
    same = ask(batcher, 10, 1, "a", lambda: loaded.append("a"))
    other = ask(batcher, 20, 1, "b", lambda: loaded.append("b"))
    broken = ask(batcher, 30, 1, "c", lambda: 1 // 0)
    behind = ask(batcher, 40, 1)
    script.go.release(2)
    for told, token in ((same, 11), (other, 21), (behind, 41)):
        assert [step.token for step in read(told)[:-1]] == [token]
    assert isinstance(read(broken)[-1], ZeroDivisionError)
    assert loaded == ["a", "b"]
    script.go.release(100)
    assert len(read(first)) == 100  # the batch under way went on all the time


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


def test_a_batch_of_the_run_that_nobody_hears_is_given_up_wherever_it_stands() -> None:
    script, until, loaded = Script(), threading.Event(), []
    batcher = Batcher(script, 8)
    hold(batcher, until)
    waiting = batcher.submit_batch([TokenRequest([50], 5)], lambda: loaded.append("waiting"))
    assert waiting.cancel()
    assert batcher.waiting == 0
    until.set()
    decoded = batcher.submit_batch([TokenRequest([1000], 10**6), TokenRequest([2000], 10**6)])
    script.go.release(2)
    while len(script.log) < 1 + 2 * 2:
        pass
    assert decoded.cancel()
    script.go.release(2)
    while batcher.waiting:
        pass
    assert [step.token for step in read(ask(batcher, 5))[:-1]] == [6, 7]
    assert loaded == []
    assert 50 not in script.log
    assert script.log.count(1000) < 5
    batcher.check(LIMIT)


def test_a_batch_that_is_given_up_while_it_is_loaded_for_or_fails_spoils_nothing() -> None:
    batcher = Batcher(Script(), 8)
    for first in (50, -1):  # the second fails, with nobody to tell
        begun, until = threading.Event(), threading.Event()

        def load(begun: threading.Event = begun, until: threading.Event = until) -> None:
            begun.set()
            assert until.wait(LIMIT)

        done = batcher.submit_batch([TokenRequest([first], 3)], load)
        assert begun.wait(LIMIT)
        assert done.cancel()
        until.set()
    assert [step.token for step in read(ask(batcher, 5))[:-1]] == [6, 7]


def test_callers_who_leave_at_any_stage_free_their_places() -> None:
    """Of many callers two thirds go away: before they are taken, while their adapter loads, and
    while they are told.
    """
    script, until = Script(), threading.Event()
    batcher = Batcher(script, 4)
    hold(batcher, until)
    chance = random.Random(0)
    heard, jobs = [], []
    for number in range(300):
        job = Job(TokenRequest([10], 10**9), lambda step: None, lambda: None)
        if stage := number % 3:
            job.prepare = lambda job=job: setattr(job, "cancelled", True)  # type: ignore[misc]
            if stage == 2:
                steps = chance.randint(1, 5)
                job.prepare, job.report = lambda: None, leave_after(job, steps)
            jobs.append(job)
            batcher.submit(job)
        else:
            job.cancelled = chance.random() < 0.5
            batcher.submit(job)
            job.cancelled = True
        heard.append(ask(batcher, 100, 3))
    until.set()
    assert all([step.token for step in read(told)[:-1]] == [101, 102, 103] for told in heard)
    assert batcher.waiting == 0


def leave_after(job: Job, steps: int) -> Any:
    """Hears that many steps, and goes."""
    left = iter(range(steps - 1))

    def tell(step: Any) -> None:
        job.cancelled = next(left, None) is None

    return tell


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # it is what the test is about
def test_an_engine_that_makes_no_step_or_whose_thread_has_ended_is_noticed() -> None:
    batcher, until = Batcher(Script(), 8), threading.Event()
    batcher.check(0.0)  # it has nothing to do
    held = hold(batcher, until)
    batcher.check(LIMIT)
    with pytest.raises(EngineStuckError, match=r"no step for more than 0\.01 s"):
        check_until_it_fails(batcher, 0.01)
    until.set()
    read(held)
    batcher.check(LIMIT)

    def end() -> None:
        raise SystemExit  # what no caller can be told

    ask(batcher, 1, prepare=end)
    with pytest.raises(EngineStuckError, match="has ended"):
        check_until_it_fails(batcher, LIMIT)


def check_until_it_fails(batcher: Batcher, stall_seconds: float) -> None:
    while True:
        batcher.check(stall_seconds)
