"""Leases: one controller a run, whoever dies, and nothing written by those before."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from uuid import uuid4

import psutil
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from atgen_ray.core.errors import LeaseLostError, RunBusyError
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity


def elsewhere(id: str) -> ProcessIdentity:
    """A controller on another machine, of which nothing can be seen from here."""
    return ProcessIdentity(id, host="far-away", pid=2**22 + 1, started=0.0, machine="another")


def test_a_live_holder_keeps_the_run(journal: Journal, run: str) -> None:
    journal.acquire(run, ProcessIdentity("a"), 60)
    host = socket.gethostname()
    with pytest.raises(
        RunBusyError, match=rf"process {os.getpid()} on host '{host}'.* expires in [56]\d s"
    ):
        journal.acquire(run, ProcessIdentity("b"), 60)


def test_the_same_owner_and_a_takeover_void_the_earlier_lease(journal: Journal, run: str) -> None:
    leases = [journal.acquire(run, elsewhere("a"), 60), journal.acquire(run, elsewhere("a"), 60)]
    leases.append(journal.acquire(run, ProcessIdentity("b"), 60, takeover=True))
    assert [lease.epoch for lease in leases] == [1, 2, 3]
    for lease in leases[:2]:
        with pytest.raises(LeaseLostError, match="taken by process"):
            journal.append(lease, "note")
    assert journal.append(leases[2], "note").sequence == 1


def test_an_expired_lease_is_free_but_valid_until_it_is_taken(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, elsewhere("a"), 0.05)
    time.sleep(0.1)
    journal.append(lease, "late, yet nobody else came")
    second = journal.acquire(run, elsewhere("b"), 60)
    with pytest.raises(LeaseLostError):
        lease.renew()
    lease.release()  # must not free what another holds
    journal.append(second, "note")
    with pytest.raises(RunBusyError):
        journal.acquire(run, elsewhere("c"), 60)


def test_renewal_puts_off_the_expiry(
    journal: Journal, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = journal.acquire(run, elsewhere("a"), 100.0)
    clock = journal.database.clock
    for seconds in (40.0, 80.0, 120.0):
        monkeypatch.setattr(
            journal.database, "clock", lambda connection, on=seconds: clock(connection) + on
        )
        lease.renew()
    with pytest.raises(RunBusyError):
        journal.acquire(run, elsewhere("b"), 60)


def test_a_released_lease_is_free_and_void(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, elsewhere("a"), 60)
    lease.release()
    lease.release()
    with pytest.raises(LeaseLostError, match="released"):
        journal.append(lease, "note")
    assert journal.acquire(run, elsewhere("b"), 60).epoch == 2


def test_whether_a_run_is_driven(journal: Journal, run: str) -> None:
    assert not journal.has_live_controller(run)
    lease = journal.acquire(run, elsewhere("a"), 60)
    assert journal.has_live_controller(run)
    lease.release()
    assert not journal.has_live_controller(run)
    assert not journal.has_live_controller("nobody")


def test_a_dead_process_of_this_machine_frees_the_run_at_once(journal: Journal, run: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dying = ProcessIdentity("a", pid=child.pid, started=psutil.Process(child.pid).create_time())
    journal.acquire(run, dying, 3600)
    with pytest.raises(RunBusyError):
        journal.acquire(run, ProcessIdentity("b"), 60)
    child.kill()
    while (
        psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
    ):  # dead, though its parent has not noticed
        time.sleep(0.01)
    journal.acquire(run, ProcessIdentity("b"), 60)
    child.communicate()
    journal.acquire(run, dying, 3600, takeover=True)
    journal.acquire(run, ProcessIdentity("b"), 60)


def test_a_recycled_pid_is_not_the_holder(journal: Journal, run: str) -> None:
    journal.acquire(run, ProcessIdentity("a", started=psutil.Process().create_time() - 3600), 3600)
    assert journal.acquire(run, ProcessIdentity("b"), 60).epoch == 2


def test_a_pid_of_another_machine_says_nothing_here(journal: Journal, run: str) -> None:
    journal.acquire(run, elsewhere("a"), 3600)
    with pytest.raises(RunBusyError, match="host 'far-away'"):
        journal.acquire(run, ProcessIdentity("b"), 60)


def test_a_controller_hears_that_it_is_to_stop(journal: Journal, run: str) -> None:
    assert not journal.ask_to_stop(run)
    assert not journal.has_live_controller(run)
    lease = journal.acquire(run, elsewhere("a"), 60)
    assert journal.has_live_controller(run)
    assert not lease.renew()
    assert journal.ask_to_stop(run)
    assert lease.renew()
    restarted = journal.acquire(run, elsewhere("a"), 60)
    assert restarted.renew()
    restarted.release()
    assert not journal.ask_to_stop(run)
    again = journal.acquire(run, elsewhere("a"), 0.05)
    assert not again.renew()
    time.sleep(0.1)
    assert not journal.ask_to_stop(run)
    assert not again.renew()


def test_every_write_is_fenced(journal: Journal, run: str) -> None:
    stale = journal.acquire(run, ProcessIdentity("a"), 60)
    journal.acquire(run, ProcessIdentity("b"), 60, takeover=True)
    for write in writes(journal, stale):
        with pytest.raises(LeaseLostError):
            write()
    assert (journal.events(run), journal.annotations(run), journal.dead_letters(run)) == (
        [],
        [],
        [],
    )
    assert journal.run(run).status == "created"


def writes(journal: Journal, lease: Lease) -> list[Callable[[], object]]:
    return [
        lambda: journal.append(lease, "step", 1, "scoring"),
        lambda: journal.record_annotations(lease, 1, [Annotation("x", "text", "ann")]),
        lambda: journal.record_dead_letters(lease, 1, [DeadLetter("x", "scoring", "why")]),
        lambda: journal.set_status(lease, "failed"),
        lease.renew,
    ]


class JournalHistory(RuleBasedStateMachine):
    """Any order of writes, replays and deaths, against a model in plain lists."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.journal = Journal(url)

    @initialize()
    def start(self) -> None:
        self.name = self.journal.create_run(f"run-{uuid4().hex}", {}, "").name
        self.lease = self.journal.acquire(self.name, ProcessIdentity("first"), 60)
        self.stale: list[Lease] = []
        self.kinds: list[tuple[str, int | None, str | None]] = []
        self.labels: dict[tuple[str, str], tuple[int, Annotation]] = {}

    @rule(
        round=st.none() | st.integers(0, 2),
        step=st.sampled_from(["scoring", "training"]),
        kind=st.booleans(),
    )
    def append(self, round: int | None, step: str, kind: bool) -> None:
        entry = ("step" if kind else "progress", round, step)
        event = self.journal.append(self.lease, *entry)
        if not kind or entry not in self.kinds:
            self.kinds.append(entry)
        assert event.sequence == (self.kinds.index(entry) + 1 if kind else len(self.kinds))

    @rule(
        round=st.integers(0, 2),
        keys=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), max_size=5),
    )
    def annotate(self, round: int, keys: list[tuple[str, str]]) -> None:
        before = len(self.labels)
        labels = [Annotation(id, uuid4().hex, annotator, 0.5) for id, annotator in keys]
        for label in labels:
            self.labels.setdefault((label.id, label.annotator), (round, label))
        assert (
            self.journal.record_annotations(self.lease, round, labels) == len(self.labels) - before
        )

    @rule(release=st.booleans())
    def die(self, release: bool) -> None:
        self.stale.append(self.lease)
        if release:
            self.lease.release()
        self.journal.close()
        self.journal = Journal(self.url)
        self.lease = self.journal.acquire(
            self.name, ProcessIdentity(uuid4().hex), 60, takeover=not release
        )

    @rule(data=st.data())
    def write_after_death(self, data: st.DataObject) -> None:
        for lease in self.stale[-2:]:
            write = data.draw(st.integers(0, len(writes(self.journal, lease)) - 1))
            with pytest.raises(LeaseLostError):
                writes(self.journal, lease)[write]()
            lease.release()

    @invariant()
    def agrees_with_the_model(self) -> None:
        events = self.journal.events(self.name)
        assert [event.sequence for event in events] == list(range(1, len(self.kinds) + 1))
        assert [(event.kind, event.round, event.step) for event in events] == self.kinds
        kept = sorted(
            self.labels.values(), key=lambda pair: pair[0]
        )  # stable: insertion order within a round
        assert self.journal.annotations(self.name) == kept
        assert self.journal.dollars(self.name) == 0.5 * len(kept)
        assert self.journal.run(self.name).status == "created"

    def teardown(self) -> None:
        self.journal.close()


def test_no_history_breaks_the_journal(journal_url: str) -> None:
    quick = settings(
        max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=[*HealthCheck]
    )
    # Its annotation says a class; what it calls is what makes a machine.
    run_state_machine_as_test(lambda: JournalHistory(journal_url), settings=quick)  # type: ignore[arg-type]
