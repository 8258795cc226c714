"""Runs of a service that go on by themselves after their controller died with the cluster.

Every replica of the API looks, and the run's lease decides who drives it: two controllers in one
cluster have the same name and are one, and of those in two clusters one gets the lease. What people
stopped stays stopped. A run that was resumed again and again in one hour, without any other event,
waits for a person.
"""

import logging
import threading
import time
from collections.abc import Callable

from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.serving.errors import ApiError
from atgen_ray.store.events import RESUMED, enter_event, list_last_events
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_records import INTERRUPTED, UNDER_WAY, RunRecord

LOOK_SECONDS = 10.0
STUCK_SECONDS = 300.0  # a look that takes longer hangs; starting a controller may take a minute
START_SECONDS = 60.0  # until a controller that was started has its lease
# So many resumptions in so short a time, with no other event between them, and a person decides. A
# run that waits for people has no other event for days.
FRUITLESS = 3
FRUITLESS_SECONDS = 3600.0

logger = logging.getLogger(__name__)


class Resumption:
    """Goes on with the interrupted runs of one service."""

    def __init__(
        self,
        journal: Journal,
        resume: Callable[[str], None],
        has_controller: Callable[[str], bool],
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Resume with `resume`, which raises UserError or ApiError where that cannot be, the runs
        for which `has_controller` of this cluster says False, until `is_ending` says True.
        """
        self._is_ending = is_ending
        self._journal = journal
        self._resume = resume
        self._has_controller = has_controller
        self._refused = set[str]()
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raise StorageUnavailableError where `watch` has not looked for STUCK_SECONDS."""
        silent = time.monotonic() - self._looked
        if silent > STUCK_SECONDS:
            raise StorageUnavailableError(f"no look at interrupted runs for {silent:.0f} s")

    def watch(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set: the lease of a controller that died on another
        machine takes a while to expire.
        """
        while True:
            self._looked = time.monotonic()
            try:
                self.look()
            except Exception as error:  # the watch of all runs outlives any one trouble
                logger.warning("interrupted runs were not resumed: %s", error)
            if stop.wait(LOOK_SECONDS):
                return

    def look(self) -> list[str]:
        """Resume the interrupted runs of the service once, unless it is about to end itself;
        return their names.
        """
        if self._is_ending():
            return []
        resumed = []
        for record in self._journal.runs():
            if not record.served or record.status not in UNDER_WAY or record.name in self._refused:
                continue
            if self._journal.describe_status(record) != INTERRUPTED:
                continue
            if self._has_controller(record.name):  # Ray is restarting it
                continue
            if self._go_on(record):
                resumed.append(record.name)
        return resumed

    def _go_on(self, record: RunRecord) -> bool:
        name = record.name
        if self._journal.is_asked_to_stop(name):
            self._journal.end_undriven(name, "stopped on request; its controller died before that")
            return False
        if not self._claim(name):
            return False
        try:
            self._resume(name)
        except StorageUnavailableError:
            raise
        except (UserError, ApiError) as error:
            # Once for each start of the service: the cause is in its configuration, or in the data.
            self._refused.add(name)
            logger.warning("run %s was not resumed: %s", name, error)
            return False
        logger.info("run %s goes on", name)
        return True

    def _claim(self, name: str) -> bool:
        """Enter that the run goes on; return False where another replica has done so a moment ago,
        or where that was of no use several times.
        """
        with self._journal.run_transaction(name) as connection:
            now = self._journal.database.clock(connection)
            last = list_last_events(connection, name, FRUITLESS)
            if last and last[0].kind == RESUMED and now - last[0].time < START_SECONDS:
                return False
            if (
                len(last) == FRUITLESS
                and all(event.kind == RESUMED for event in last)
                and now - last[-1].time < FRUITLESS_SECONDS
            ):
                return False
            enter_event(self._journal.database, connection, name, RESUMED)
        return True
