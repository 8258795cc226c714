"""`atgen-ray runs add`: rows for the pool of a run that is there, whether it goes on or has ended.

The rows are read and compared here and wait in the run's inbox; its controller takes them into the
pool before the next round (`atgen_ray/runs/steps/growth.py`). Nothing that a controller writes is
touched, so that it may be at work meanwhile. A call that was killed is repeated: its part of the
inbox has a name made of its rows.
"""

from dataclasses import dataclass

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config, renew_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import digest
from atgen_ray.core.records import DELETED
from atgen_ray.data.added_rows import Offer, read_offer
from atgen_ray.reporting.growth import describe_rest
from atgen_ray.runs.state import check_pool_size
from atgen_ray.runs.steps.growth import POOL, TEST, scan_known
from atgen_ray.runs.steps.pool import keeps_fields
from atgen_ray.store.additions import (
    INBOX,
    PART,
    SOURCE,
    enter_addition,
    find_waiting,
)
from atgen_ray.store.events import REMOVED
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import name_user
from atgen_ray.store.run_folder import RunFolder

MOST_ROWS = 2_000_000  # of one source: they are in memory at once
TRIES = 3


class NothingNewError(UserError):
    """The run has all rows of the source already, or none of them can be used."""


@dataclass(frozen=True)
class Addition:
    """What was added to a run: how many of the `offered` rows it `added`, how many it had already
    (`known`), how many are in the `test` set, `repeated` in the source, or `unusable`.
    """

    run: str
    source: str
    offered: int
    added: int
    known: int
    test: int
    repeated: int
    unusable: int
    reasons: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers by name."""
        names = ("offered", "added", "known", "test", "repeated", "unusable")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Return it as one line."""
        said = describe_rest(self.counts, self.reasons)
        return f"{self.added:,} of {self.offered:,} rows are added to run '{self.run}'" + (
            f"; {said}" if said else ""
        )


def add_rows(
    journal: Journal,
    storage: str,
    run: str,
    source: str,
    by: str | None = None,
    most_rows: int = MOST_ROWS,
) -> Addition:
    """Add the rows of `source`, a file, folder, glob or URL, to the pool of a run; `by` defaults to
    the user of this process.

    Raises:
        NothingNewError: no row of it is new.
        UserError: there is no such run, it can take no rows, or the source cannot be used.
    """
    config, folder = _open(journal, storage, run)
    offer = read_offer(config.data, config.prompt, source, keeps_fields(config))
    if offer.offered > most_rows:
        raise UserError(
            f"source is {source[:200]!r}, which has {offer.offered:,} rows, expected at most "
            f"{most_rows:,}: add it in parts"
        )
    lost = _compare(journal, folder, offer)
    found = Addition(
        run,
        source,
        offer.offered,
        len(offer.rows),
        offer.known,
        offer.test,
        offer.repeated,
        offer.unusable,
        offer.reasons,
    )
    if not found.added:
        _refuse(found)
    check_pool_size(config, folder.count_rows(POOL) + found.added)
    part = f"{INBOX}/{digest(*offer.ids, size=16)}.parquet"
    _write(folder, part, offer)
    payload = found.counts | {
        PART: part,
        SOURCE: source,
        "by": by or name_user(),
        "reasons": found.reasons,
    }
    if not enter_addition(journal, run, payload) and part not in lost:
        _refuse(found)
    return found


def _refuse(found: Addition) -> None:
    said = describe_rest(found.counts, found.reasons) or "others have added them meanwhile"
    raise NothingNewError(
        f"source is {found.source[:200]!r}, of whose {found.offered:,} rows none is new to run "
        f"'{found.run}': {said}"
    )


def _open(journal: Journal, storage: str, run: str) -> tuple[RunConfig, RunFolder]:
    """Return settings and folder of a run that can take rows."""
    tree = journal.run(run).config
    if journal.events(run, kind=REMOVED):
        raise UserError(
            f"run '{run}' is over for good: its adapters were removed, expected one that can go on"
        )
    folder = RunFolder(storage, run)
    if not folder.exists(POOL):
        raise UserError(
            f"run '{run}' has not read its pool yet: wait until it has, or give it the rows by "
            f"data.pool"
        )
    tree = renew_config(tree) | {"name": run, "storage": storage}
    return parse_config(tree, labels=False), folder


def _compare(journal: Journal, folder: RunFolder, offer: Offer) -> list[str]:
    """Take out what the run has, in its pool, its test set or its inbox, or had; return the parts
    of the inbox that are gone.
    """
    lost = []
    letters = journal.dead_letters(folder.name, step=DELETED)
    offer.drop_known(scan_known(folder, {letter.id for _, letter in letters}))
    if folder.exists(TEST):
        offer.drop_test(folder.scan_table(TEST, ["content"]))
    for event in find_waiting(journal, folder.name):
        part = str(event.payload[PART])
        try:
            offer.drop_known(folder.scan_table(part, ["id", "content"]))
        except FileNotFoundError:  # or the controller has just taken it
            lost.append(part)
    return lost


def _write(folder: RunFolder, part: str, offer: Offer) -> None:
    """Write a part of the inbox. A controller that starts removes files that are half written, so
    that it may take a second time.
    """
    for left in reversed(range(TRIES)):
        try:
            folder.write_table(part, offer.rows)
            return
        except FileNotFoundError:
            if not left:
                raise
