"""The journal between processes that race and die, and threads that read and write at once."""

import multiprocessing
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

from helpers.processes import PROCESSES

from atgen_ray.core.errors import RunBusyError
from atgen_ray.core.records import Annotation
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity


def race(url: str, names: list[str], barrier: Barrier, wins: "multiprocessing.Queue[str]") -> None:
    journal = Journal(url)
    for name in names:
        barrier.wait(30)
        try:
            journal.acquire(name, ProcessIdentity(f"racer-{os.getpid()}"), 60)
            wins.put(name)
        except RunBusyError:
            pass
    barrier.wait(30)  # a winner that died would free its runs


def test_one_of_two_processes_wins_a_run(journal: Journal, journal_url: str) -> None:
    names = [journal.create_run(f"run-{uuid4().hex}", {}, "").name for _ in range(20)]
    barrier, wins = PROCESSES.Barrier(2), PROCESSES.Queue()
    racers = [
        PROCESSES.Process(target=race, args=(journal_url, names, barrier, wins)) for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    won = sorted(wins.get(timeout=30) for _ in names)
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    assert won == sorted(names)
    assert wins.empty()


def open_together(urls: list[str], barrier: Barrier) -> None:
    for url in urls:
        barrier.wait(30)
        journal = Journal(url)
        journal.create_run("shared", {}, "digest")
        journal.close()


def test_processes_may_open_a_new_journal_together(tmp_path: Path) -> None:
    urls, barrier = (
        [f"sqlite:///{tmp_path / f'{attempt}.db'}" for attempt in range(10)],
        PROCESSES.Barrier(4),
    )
    openers = [PROCESSES.Process(target=open_together, args=(urls, barrier)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0] * 4
    for url in urls:
        assert [record.name for record in Journal(url).runs()] == ["shared"]


def write_forever(url: str, name: str, ready: "multiprocessing.Queue[int]") -> None:
    journal = Journal(url)
    lease = journal.acquire(name, ProcessIdentity(f"writer-{os.getpid()}"), 3600)
    ready.put(lease.epoch)
    done = len(journal.committed_steps(name))
    while True:
        # Two labels and the event that says so; a death in between leaves labels without an event,
        # never the reverse.
        journal.record_annotations(
            lease, done, [Annotation(f"{done}-{i}", "text", "ann", 0.5) for i in range(2)]
        )
        journal.append(lease, "step", done, "annotation", {"epoch": lease.epoch})
        ready.put(done)
        done += 1


def test_a_killed_writer_leaves_a_whole_journal(
    journal: Journal, run: str, journal_url: str
) -> None:
    chance = random.Random(0)
    for kill in range(1, 11):
        ready = PROCESSES.Queue()
        writer = PROCESSES.Process(target=write_forever, args=(journal_url, run, ready))
        writer.start()
        assert ready.get(timeout=30) == kill  # the dead one before did not hold it up
        if kill % 2:
            ready.get(timeout=30)  # it has written an event, however slow it is
        time.sleep(chance.uniform(0, 0.06))
        writer.kill()
        writer.join()
        events, labels = journal.events(run), journal.annotations(run)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.round for event in events] == list(range(len(events)))
        assert len({label.id for _, label in labels}) == len(labels)
        assert len(labels) in (2 * len(events), 2 * len(events) + 2)
        assert journal.dollars(run) == 0.5 * len(labels)
    assert len(journal.events(run)) >= 5


def test_readers_and_writers_at_once(journal: Journal, run: str, journal_url: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 60)
    second = Journal(journal_url)
    finished = threading.Event()

    def write(thread: int) -> None:
        for i in range(15):
            journal.append(lease, "progress", payload={"thread": thread})
            journal.append(lease, "step", i, "scoring")
            journal.record_annotations(
                lease, i, [Annotation(f"{i}", "text", "ann"), Annotation(f"{i}", "", f"{thread}")]
            )
            lease.renew()

    def read(reader: Journal) -> int:
        most = 0
        while not finished.is_set():
            sequences = [event.sequence for event in reader.events(run)]
            assert sequences == list(range(1, len(sequences) + 1))
            assert len(sequences) >= most
            most = len(sequences)
            reader.runs()
            reader.dollars(run)
        return most

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, reader) for reader in (journal, journal, second, second)]
        writers = [pool.submit(write, thread) for thread in range(4)]
        try:
            for writer in writers:
                writer.result(60)
        finally:
            finished.set()
        assert max(reader.result(60) for reader in readers) > 0
    second.close()
    assert len(journal.events(run)) == 4 * 15 + 15
    assert len(journal.annotations(run)) == 15 + 4 * 15
