"""Cache of run views for the pages. An entry is valid until the run changes; every replica has its
own cache and can compute any entry.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.reporting.page import prepare_page
from atgen_ray.reporting.publish import view_run
from atgen_ray.serving.errors import ApiError
from atgen_ray.store.journal import Journal
from atgen_ray.store.label_changes import read_last_change

KEPT = 32


class RunViews:
    """Least-recently-used cache of `prepare_page` for runs in one storage. Safe to use from
    threads.
    """

    def __init__(self, service: ServiceConfig, journal: Journal) -> None:
        self._storage = service.storage
        self._journal = journal
        self._kept: OrderedDict[Any, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, names: Sequence[str], selection: bool = False) -> dict[str, Any]:
        """Return `prepare_page` of the runs `names`, with or without what was selected and why.

        Raises:
            ApiError: 404, a run is unknown.
        """
        try:
            state = [self._describe(name) for name in names]
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(404, str(error)) from None
        key = (tuple(state), selection)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return dict(self._kept[key])
        # Drawn without the lock: two threads may draw the same page, none waits for another.
        page = prepare_page(
            [view_run(name, self._journal, self._storage, selection) for name in names]
        )
        with self._lock:
            self._kept[key] = page
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return dict(page)

    def _describe(self, name: str) -> tuple[Any, ...]:
        """Return a key that changes whenever the run does."""
        record = self._journal.run(name)
        status = self._journal.describe_status(record)
        # Labels of people come one by one, between two events.
        total = self._journal.total(name)
        numbers = (total.labels, total.dollars, total.changed)
        changes = read_last_change(self._journal, name)
        return name, record.created, status, *numbers, self._journal.last_sequence(name), changes
