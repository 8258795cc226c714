"""One history: a run under faults, whose command is given again and again until the run has ended."""

import logging
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import running_on
from atgen_ray.runs.doctor import examine
from atgen_ray.runs.doctor.finding import Finding
from atgen_ray.runs.driver import enter_run, find_end
from atgen_ray.runs.leased_run import Goal, LeasedRun, Snapshot, Surroundings
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

from .database import simulated_database
from .disk import simulated_disk
from .faults import Plan
from .invariants import BrokenError, Invariants, require
from .people import Person
from .provider import Server, simulated_provider
from .scenarios import KEY, RUN, SCENARIOS, Scenario, configure, write_pool
from .steps import make_workers
from .world import Killed, Process, World

# Commands that a run may take to end, once the faults have stopped. A clock that went backward
# leaves the lease of a dead controller for longer than one command waits.
LAST_STARTS = 6
# An end too, where every answer was lost that cannot be looked up.
NO_LABEL = "the run ends without a label"


@dataclass
class History:
    """What became of one seed."""

    seed: int
    scenario: str
    events: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    failure: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def invariant(self) -> str | None:
        """Return the name of the invariant that broke, if one did."""
        return None if self.failure is None else self.failure.partition(":")[0]


_tables: list[bytes] = []  # a database with no rows
_golden: dict[str, dict[str, Any]] = {}


def play(
    seed: int, scenario: Scenario | None = None, quiet: bool = False, focus: str | None = None
) -> History:
    """Play the history of `seed`, and compare how it ends with the undisturbed one; `quiet`:
    without faults; `focus`: with faults at edges that have these words.
    """
    scenario = scenario or SCENARIOS[seed % len(SCENARIOS)]
    if not quiet and scenario.same and scenario.name not in _golden:
        undisturbed = play(seed, scenario, quiet=True)
        if undisturbed.failure is not None:
            return undisturbed
        _golden[scenario.name] = undisturbed.result
    plan = Plan.without() if quiet else Plan.draw_up(str(seed), focus)
    history = History(seed, scenario.name)
    with _folder() as folder:
        stage = _Stage(seed, scenario, plan, folder)
        try:
            with stage.set_up():
                stage.play()
            history.result = stage.invariants.result()
            if not quiet and scenario.same:
                _compare(history.result, _golden[scenario.name])
        except BrokenError as broken:
            history.failure = str(broken)
        except Exception as error:
            history.failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        history.events = stage.world.events
        history.starts = stage.starts
        history.faults = plan.done
        history.checks = stage.invariants.checks
        history.trace = [line.replace(str(folder), "") for line in stage.world.trace]
        stage.invariants.close()
    return history


def describe(history: History) -> str:
    """Return a history in one line, and how to play it again if it failed."""
    faults = (
        ", ".join(f"{count} {name}" for name, count in sorted(history.faults.items())) or "none"
    )
    line = (
        f"seed {history.seed} ({history.scenario}): {history.events} events, {history.starts} "
        f"starts, faults: {faults}"
    )
    if history.failure is None:
        return line
    return f"{line}\n  BROKEN {history.failure}\n  python -m tests.simulation --seed {history.seed} --trace"


def play_chunk(seeds: list[int]) -> list[dict[str, Any]]:
    """Play seeds in this process."""
    logging.disable(logging.CRITICAL)
    rows = []
    for seed in seeds:
        history = play(seed)
        rows.append(
            {
                "seed": seed,
                "scenario": history.scenario,
                "events": history.events,
                "starts": history.starts,
                "faults": history.faults,
                "checks": history.checks,
                "failure": history.failure,
                "said": describe(history),
            }
        )
    return rows


def _compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        require("same-result", found[name] == value, f"{name}: {found[name]}, not {value}")


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder in memory with an empty database of the newest tables."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="atgen-sim-", dir=memory))
    try:
        if not _tables:
            Journal(f"sqlite:///{path}/empty.db").close()
            _tables.append(Path(path, "empty.db").read_bytes())
            Path(path, "empty.db").unlink()
        (path / "atgen.db").write_bytes(_tables[0])
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class _Stage:
    """The world of one history with everybody in it."""

    def __init__(self, seed: int, scenario: Scenario, plan: Plan, folder: Path) -> None:
        self.world = World(str(seed), plan)
        self.scenario = scenario
        self.starts = 0
        self._folder = folder
        write_pool(folder, scenario)
        storage = str(folder / "storage")
        self.config: RunConfig = configure(scenario, storage, folder)
        forgetful = scenario.settings["annotator"].get("recovery") == "none"
        self.server = Server(self.world, remembers=not forgetful)
        root = f"{storage}/runs/{RUN}"
        database = f"{folder}/atgen.db"
        self.invariants = Invariants(scenario, self.config, database, self.server, root)
        self.server.changed = self.invariants.check_money
        self.server.holds = self._holds
        self._finished = False
        self._commands: list[_Command] = []
        self._broken: Exception | None = None
        self._closed_at_end: list[Journal] = []

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """Put the simulated edges in the place of the real ones."""
        world = self.world
        with ExitStack() as edges:
            edges.enter_context(patch.dict("os.environ", {"OPENAI_API_KEY": KEY}))
            edges.enter_context(running_on(world))
            edges.enter_context(simulated_database(world, self._committed))
            edges.enter_context(simulated_disk(world, str(self._folder), self._renamed))
            edges.enter_context(simulated_provider(self.server))
            edges.enter_context(
                patch.object(ProcessIdentity, "is_dead", lambda who: self._is_dead(who))
            )
            edges.enter_context(patch.object(RunFolder, "fenced", self._watch_fences()))
            yield

    def play(self) -> None:
        """Let the history happen to its end."""
        world = self.world
        operator = Process("operator", mortal=False)
        world.spawn(operator, self._guard, self._operate)
        try:
            world.run(lambda: self._finished or self._broken is not None)
            if self._broken is not None:
                raise self._broken
            self.invariants.at_end()
        finally:
            world.end()
            for journal in (
                *self._closed_at_end,
                *(each for c in self._commands for each in c.journals),
            ):
                journal.close()
        with closing(open_journal(self.config.storage, self.config.database_url)) as journal:
            found = examine(journal, self.config.storage, RUN, deep=True).findings
        wrong = [each for each in found if each.kind != "leftover" or not self._is_of_late(each)]
        require("doctor", not wrong, "; ".join(f"{each.kind}: {each.what}" for each in wrong))

    def _is_of_late(self, leftover: Finding) -> bool:
        """Return whether only controllers have left it that were paused, and woke up late: what
        they make aside, or as unfinished work, has no name.
        """
        epochs = "|".join(str(each.epoch) for each in self._commands if each.process.was_paused)
        own = (
            re.compile(rf"(\.steps/|rounds/\d+/training-)({epochs})-[0-9a-f]{{8}}[./]")
            if epochs
            else None
        )
        return own is not None and all(own.match(rel) for rel in leftover.paths)

    def _operate(self) -> None:
        """Give the command again and again, and a second one while the first is paused, until the
        run has ended and nobody works on it any more.
        """
        world = self.world
        self._bring_people()
        last = 0
        world.changed = lambda: world.notify(self)
        while not self._has_ended():
            if not self._is_worked_on():
                world.sleep(world.chance.choice([0.0, 0.5, 3.0, 25.0]))
                last += not world.plan.left
                said = [command.message for command in self._commands][-3:]
                require("ends", last <= LAST_STARTS, f"{last} starts without a fault: {said}")
                self._give_command()
            world.wait_on([self], 5.0)
        while any(command.works for command in self._commands):
            world.wait_on([self], 5.0)
        self._finished = True

    def _bring_people(self) -> None:
        if not self.scenario.people:
            return
        with self.world.still():
            journal = open_journal(self.config.storage, self.config.database_url)
        for name in self.scenario.people:
            person = Person(self.world, journal, name, self._has_open_tasks)
            self.invariants.people.append(person)
            self.world.spawn(person.process, self._guard, person.work)
        self._closed_at_end.append(journal)

    def _holds(self, process: Process) -> bool:
        return self.invariants.rows("SELECT owner FROM controllers") == [(process.owner,)]

    def _has_open_tasks(self) -> bool:
        return bool(self.invariants.rows("SELECT 1 FROM tasks WHERE state = 'open' LIMIT 1"))

    def _has_ended(self) -> bool:
        if not self.scenario.same and any(NO_LABEL in each.message for each in self._commands):
            return True
        return self.invariants.rows(f"SELECT status FROM runs WHERE name = '{RUN}'") == [
            ("finished",)
        ]

    def _is_worked_on(self) -> bool:
        now = self.world.now
        return any(each.works and each.process.paused_until <= now for each in self._commands)

    def _give_command(self) -> None:
        self.starts += 1
        command = _Command(
            self.world,
            self.config,
            self.starts,
            lambda: self.world.notify(self),
            self.scenario.goal,
        )
        self._commands.append(command)
        self.world.spawn(command.process, self._guard, command.work)

    def _is_dead(self, identity: ProcessIdentity) -> bool:
        """Look a process up in the list of its host, which other hosts cannot see."""
        here = self.world.current.process.host if self.world.current else ""
        return identity.host == here and not any(
            each.process.alive and each.works
            for each in self._commands
            if each.process.owner == identity.id
        )

    def _watch_fences(self) -> Any:
        real = RunFolder.fenced

        def fenced(folder: RunFolder, area: str, check: Any) -> RunFolder:
            found = real(folder, area, check)
            if self.world.current is not None:
                epoch = int(area.partition("-")[0])
                self.invariants.after_fence(self.world.current.process, epoch)
            return found

        return fenced

    def _guard(self, call: Any, *arguments: Any) -> None:
        """Keep the first error of anybody, which ends the history."""
        try:
            call(*arguments)
        except Exception as error:
            self._broken = self._broken or error

    def _committed(self) -> None:
        if self.world.current is not None:
            self._hold(self.invariants.after_commit, self.world.current.process)

    def _renamed(self, target: str) -> None:
        if self.world.current is not None:
            self._hold(self.invariants.after_rename, self.world.current.process, target)

    def _hold(self, check: Any, *arguments: Any) -> None:
        """Check an invariant; the code that is judged never sees that it is broken."""
        if self._broken is None:
            self._guard(check, *arguments)


class _Command:
    """One `atgen-ray run`: a driver and its controller, in one process."""

    def __init__(
        self, world: World, config: RunConfig, number: int, ended: Any, goal: Goal
    ) -> None:
        host = world.chance.choice(["one", "two"])
        self.process = Process(f"controller-{number}", host=host)
        self.message = ""
        self.run: LeasedRun | None = None
        self.journals: list[Journal] = []
        self._world = world
        self._config = config
        self._number = number
        self._done = False
        self._notify = ended
        self._goal = goal

    @property
    def works(self) -> bool:
        """Return whether it is neither dead nor at its end."""
        return self.process.alive and not self._done

    @property
    def epoch(self) -> int:
        """Return the epoch of its lease; 0 without one."""
        lease = self.run._lease if self.run else None
        return lease.epoch if lease else 0

    def work(self) -> None:
        """Give the command, and wait for its end."""
        try:
            self.message = self._drive()
        except UserError as error:
            self.message = str(error)
        self._done = True
        self._world.note(f"ends: {self.message}")
        self._notify()
        require("one-line", "Traceback" not in self.message, self.message)

    def _drive(self) -> str:
        world = self._world
        with world.still():
            journal = open_journal(self._config.storage, self._config.database_url)
        self.journals.append(journal)
        if (end := find_end(self._config, journal, self._goal)) is not None:
            return end.message
        config = enter_run(self._config, journal)
        ended = world.event()
        around = Surroundings(
            remote=lambda done, total: None,
            die=self._die,
            ended=ended.set,
            workers=make_workers(world),
        )
        host = self.process.host
        self.process.owner = f"owner-{self._number}"
        identity = ProcessIdentity(self.process.owner, host, self._number, 0.0, host)
        with world.still():
            run = LeasedRun(config, identity, self._goal, around)
        self.journals.append(run._journal)
        self.run = run
        run.start()
        ended.wait()
        snapshot: Snapshot = run.poll(2**31)
        return f"{snapshot.status}: {snapshot.message}"

    def _die(self) -> None:
        self._world.kill(self.process)
        raise Killed
