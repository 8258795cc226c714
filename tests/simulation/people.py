"""People who label: they lease, vanish, answer twice, and answer late, through the real queue."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from helpers.fakes.state import label_of

from atgen_ray.annotation.human.queue import Queue
from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal

from .scenarios import RUN
from .world import Process, World

Answer = dict[str, object]


class Person:
    """Somebody who looks for work until the run has ended, by requests to replicas that may die."""

    def __init__(
        self, world: World, journal: Journal, name: str, is_waiting: Callable[[], bool]
    ) -> None:
        self._world = world
        self._journal = journal
        self._is_waiting = is_waiting
        self._keys = 0
        self.name = name
        self.process = Process(name, mortal=False)
        self.accepted: dict[str, str] = {}  # what the service said that it has
        self.seen: dict[str, Answer] = {}  # answers of the service by key
        self.calls = Counter[str]()

    def work(self) -> None:
        """Label, one task after the other."""
        chance = self._world.chance
        while True:
            self._world.sleep(chance.uniform(0.3, 2.0))
            if not self._is_waiting():
                self._world.sleep(1.0)
                continue
            tasks = self._ask("lease", lambda queue: queue.lease(1))
            if not tasks:
                self._world.sleep(chance.uniform(1.0, 3.0))
                continue
            id_ = str(tasks[0]["id"])
            whim = chance.random() if self._world.plan.left else 1.0
            if whim < 0.05:
                self._world.plan.done["person-vanishes"] += 1
                self._world.sleep(chance.uniform(30.0, 60.0))
                continue
            if whim < 0.12:
                self._world.plan.done["person-late"] += 1
                self._world.sleep(chance.uniform(20.0, 40.0))
            text = label_of(str(tasks[0]["input"]))
            self._world.sleep(chance.uniform(0.3, 3.0))
            self._send(id_, text, again=whim < 0.3)

    def _send(self, id_: str, text: str, again: bool) -> None:
        self._keys += 1
        key = f"{self.name}-{self._keys}"
        if again:
            self._world.plan.done["person-twice"] += 1
        for _ in range(2 if again else 1):
            answer = self._ask("answer", lambda queue: queue.answer(key, id_, "submitted", text))
            if answer is not None:
                known = self.seen.setdefault(key, answer)
                names = ("id", "state", "text")
                assert [known[name] for name in names] == [answer[name] for name in names]
                self.accepted[id_] = text

    def _ask(self, what: str, call: Callable[[Queue], Any]) -> Any:
        """Ask a replica of the service until one answers; a conflict is an answer without a
        result.
        """
        self.calls[what] += 1
        while True:
            replica = Process(f"replica of {self.name}")
            done = self._world.event()
            found: list[Any] = []

            def serve(found: list[Any] = found) -> None:
                try:
                    found.append(call(Queue(self._journal, RUN, self.name)))
                except (TaskConflictError, TaskUnknownError):
                    found.append(None)
                except UserError:
                    return  # status 503: the page sends it again

            self._world.spawn(replica, serve)
            self._world.spawn(self.process, done.set, delay=1.0)
            while not found and not done.is_set():
                self._world.sleep(0.02)
            if found:
                return found[0]
            self._world.sleep(1.0)
