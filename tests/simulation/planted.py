"""Bugs that are planted again, to show that the simulation finds them: the first three were in the
product once, and were found by killing real processes; the next ones the simulation itself has
found, and the last ones are mutations of the same kind.

Each replaces the mended function by the old behaviour, for the histories inside its block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from atgen_ray.annotation import registry
from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_records import Settlement
from atgen_ray.annotation.llm.shard_runner import ShardRunner, UnknownOutcomeError
from atgen_ray.annotation.providers.base import ProviderError
from atgen_ray.runs.committer import Committer
from atgen_ray.store.events import STEP
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import StepOutputs

from .invariants import Invariants


@dataclass(frozen=True)
class Planted:
    """A bug, the commit that mended it or where else it comes from, and the invariants that it breaks."""

    name: str
    origin: str
    breaks: frozenset[str]
    plant: Callable[[], AbstractContextManager[None]]
    scenarios: tuple[str, ...]  # where it can show
    focus: str | None = None  # words of the edges where it can show


@contextmanager
def write_first() -> Iterator[None]:
    """`commit` gave the outputs their names and met the lease afterwards, and the storage was not
    fenced.
    """

    def commit(
        self: Committer, round: int, step: str, output: Any, make: Any, work: Any = None
    ) -> bool:
        if (round, step) in self._committed:
            return False
        self._tracker.start_step(round, step)
        folder = self.outputs._folder
        out: RunFolder = folder.below()
        more: dict[str, Any] = {}
        if output is None or not folder.exists(output):
            more = make(self._tracker, out) or {}
        files = {
            rel: {"size": each.size, "digest": each.digest} for rel, each in out.written.items()
        }
        payload = {"output": output, "files": files, **more}
        self._committed[round, step] = self._journal.append(self._lease, STEP, round, step, payload)
        return True

    with (
        patch.object(Committer, "commit", commit),
        patch.object(RunFolder, "fenced", lambda self, area, check: copy(self)),
        patch.object(Invariants, "names_come_first", True),
    ):
        yield


@contextmanager
def leave_work() -> Iterator[None]:
    """A step removed its own unfinished work, and left that of the controllers before."""

    def remove(self: StepOutputs, rel: str) -> None:
        self._folder.remove(self.name_work(rel) if rel.endswith("/training") else rel)

    with patch.object(StepOutputs, "remove_work", remove):
        yield


@contextmanager
def give_up() -> Iterator[None]:
    """A batch job that the provider did not find for a moment counted as gone."""

    def repeat(self: ShardRunner, call: Callable[[], Any], lookup: bool = False) -> Any:
        def once() -> Any:
            try:
                return call()
            except ProviderError as error:
                if error.status == 404:
                    raise UnknownOutcomeError from error
                raise

        return real(self, once, lookup)

    real = ShardRunner._repeat
    with patch.object(ShardRunner, "_repeat", repeat):
        yield


@contextmanager
def trust_lists() -> Iterator[None]:
    """A request whose answer was lost was sent again once a list of the provider did not have it."""
    real = registry.build_timeouts
    with patch.object(registry, "build_timeouts", lambda config: replace(real(config), lookup=0.0)):
        yield


@contextmanager
def keep_held() -> Iterator[None]:
    """The money of a request that nobody answered was never released."""
    real = RequestLog.settle

    def settle(self: RequestLog, collected: Mapping[str, Sequence[Settlement]]) -> None:
        released = {each.custom_id for some in collected.values() for each in some if not each.paid}
        ledger = self._ledger.settle
        with patch.object(
            self._ledger,
            "settle",
            lambda connection, paid: ledger(
                connection, {key: nano for key, nano in paid.items() if key not in released}
            ),
        ):
            real(self, collected)

    with patch.object(RequestLog, "settle", settle):
        yield


@contextmanager
def pass_by() -> Iterator[None]:
    """The unfinished work of a step stayed if its controller died right after the event."""
    real = Committer.commit

    def commit(self: Committer, round: int, step: str, *arguments: Any) -> bool:
        return (round, step) not in self._committed and real(self, round, step, *arguments)

    with patch.object(Committer, "commit", commit):
        yield


@contextmanager
def keep_halves() -> Iterator[None]:
    """What was about to become the receipt of a step stayed in a folder that nobody looked at."""
    with patch.object(RunFolder, "sweep", lambda self: None):
        yield


PLANTED = (
    Planted(
        "write first, meet the lease afterwards",
        "b934d12",
        frozenset({"journalled", "named", "same-result", "scored"}),
        write_first,
        ("chat", "chat-active"),
        "worker trains",
    ),
    Planted(
        "work of a dead controller stays when its step is taken over",
        "892d939",
        frozenset({"doctor"}),
        leave_work,
        ("chat", "chat-active"),
        "001-training.json",
    ),
    Planted(
        "a paid batch is given up that was not found for a moment",
        "65b36be",
        frozenset({"same-result", "bill-in-ledger", "paid-once"}),
        give_up,
        ("batch", "batch-spread"),
    ),
    Planted(
        "work stays whose controller died right after the event",
        "found by the simulation",
        frozenset({"doctor"}),
        pass_by,
        ("chat", "chat-active"),
        "rounds/001/adapter",
    ),
    Planted(
        "half a receipt stays",
        "found by the simulation",
        frozenset({"doctor"}),
        keep_halves,
        ("chat", "chat-active"),
        "001-training.json",
    ),
    Planted(
        "a request is sent twice after a lost reply",
        "a mutation",
        frozenset({"paid-once"}),
        trust_lists,
        ("chat", "chat-active", "batch", "batch-spread"),
        "answered POST",
    ),
    Planted(
        "held money is never released",
        "a mutation",
        frozenset({"released"}),
        keep_held,
        ("chat", "batch"),
    ),
)
