"""Runs of a service whose controller died: which go on by themselves, and which do not."""

import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
import sqlalchemy as sa

from atgen_ray.core.errors import UserError
from atgen_ray.serving import resumption
from atgen_ray.serving.resumption import FRUITLESS, Resumption
from atgen_ray.store.housekeeping import set_served
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_records import INTERRUPTED
from atgen_ray.store.tables import events, runs

DEAD = ProcessIdentity("gone", host="elsewhere")  # of which only the lease tells


class Service:
    """The journal's runs and those of them that were resumed; a resumed one gets no controller
    unless the test gives it one.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.resumed: list[str] = []
        self.controllers: set[str] = set()
        self.refusal: Exception | None = None

    def replica(self) -> Resumption:
        return Resumption(self.journal, self._resume, self.controllers.__contains__)

    def _resume(self, name: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.resumed.append(name)

    def interrupt(self, served: bool = True, status: str = "running") -> str:
        """A run whose controller is gone."""
        name = self.journal.create_run(f"run-{uuid4().hex}", {}, "").name
        lease = self.journal.acquire(name, DEAD, 0)
        self.journal.set_status(lease, status)  # type: ignore[arg-type]
        set_served(self.journal, name, served)
        return name

    def wait(self, name: str, seconds: float = 120) -> None:
        """As if time had passed."""
        earlier = sa.update(events).where(events.c.run == name)
        with self.journal.database.writing() as connection:
            connection.execute(earlier.values(time=events.c.time - seconds))


@pytest.fixture
def service(journal: Journal) -> Service:
    with journal.database.writing() as connection:  # runs of other tests of this journal
        connection.execute(sa.update(runs).values(served=None))
    return Service(journal)


def test_an_interrupted_run_goes_on_once_for_all_replicas(service: Service) -> None:
    name = service.interrupt()
    first, second = service.replica(), service.replica()
    assert first.look() == [name]
    assert second.look() == first.look() == []
    assert service.resumed == [name]
    assert [event.kind for event in service.journal.events(name)] == ["resumed"]


@pytest.mark.parametrize(
    "case",
    ["a command's", "stopped", "finished", "driven", "starting here", "lease not expired"],
)
def test_other_runs_are_left_alone(service: Service, case: str) -> None:
    statuses = {"stopped": "stopped", "finished": "finished"}
    name = service.interrupt(case != "a command's", statuses.get(case, "running"))
    if case == "driven":
        service.journal.acquire(name, ProcessIdentity("alive"), 600)
    if case == "starting here":
        service.controllers.add(name)
    if case == "lease not expired":
        service.journal.acquire(name, DEAD, 600)
    assert service.replica().look() == []
    assert service.resumed == []
    assert service.journal.events(name) == []


def test_a_run_that_was_asked_to_stop_stops(service: Service) -> None:
    name = service.interrupt()
    service.journal.acquire(name, DEAD, 600)
    assert service.journal.ask_to_stop(name)
    with service.journal.database.writing() as connection:
        connection.execute(sa.text("UPDATE controllers SET expires = 0"))
    assert service.journal.describe_status(service.journal.run(name)) == INTERRUPTED
    assert service.replica().look() == []
    assert service.journal.run(name).status == "stopped"


def test_a_run_that_makes_no_progress_waits_for_a_person(service: Service) -> None:
    name = service.interrupt()
    for _ in range(FRUITLESS):
        assert service.replica().look() == [name]
        service.wait(name)
    assert service.replica().look() == []
    lease = service.journal.acquire(name, DEAD, 0)
    service.journal.append(lease, "step", 1, "selection")
    assert service.replica().look() == [name]


def test_a_run_that_waits_for_people_goes_on_after_every_restart(service: Service) -> None:
    """Although it has no other event for days."""
    name = service.interrupt()
    for _ in range(2 * FRUITLESS):
        assert service.replica().look() == [name]
        service.wait(name, 86_400)


def test_a_run_that_cannot_be_resumed_is_tried_once_a_start(service: Service) -> None:
    name = service.interrupt()
    other = service.interrupt()
    service.refusal = UserError("data.pool is not below any of the service's data_roots")
    replica = service.replica()
    assert replica.look() == []
    for each in (name, other):
        service.wait(each)
    service.refusal = None
    assert replica.look() == []
    assert sorted(service.replica().look()) == sorted([name, other])


def test_the_watch_outlives_a_trouble(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "LOOK_SECONDS", 0.01)
    name = service.interrupt()
    stop = threading.Event()
    looks = 0

    def look(_: str) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("the database is away")
        stop.set()
        return False

    has_controller: Callable[[str], bool] = look
    Resumption(service.journal, service.resumed.append, has_controller).watch(stop)
    assert service.resumed == [name]


def test_a_service_that_is_ending_resumes_nothing(service: Service) -> None:
    """What its controllers hand over is for the next one."""
    name = service.interrupt()
    ending = True
    replica = Resumption(
        service.journal, service._resume, service.controllers.__contains__, lambda: ending
    )
    assert replica.look() == []
    ending = False
    assert replica.look() == [name]
