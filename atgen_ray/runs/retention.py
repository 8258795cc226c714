"""Retention: what is older than the service's `retention` allows is removed, by its rules alone,
and files are removed whose callers gave them an end.

Money, labels and certificates are never removed by age; a whole run goes only where `runs_days`
says so, as by `atgen-ray delete run`.
"""

import logging
import threading
from contextlib import suppress
from datetime import datetime

import sqlalchemy as sa

from atgen_ray.config.service import RetentionConfig
from atgen_ray.core.errors import UserError
from atgen_ray.runs.deletion import Target, delete
from atgen_ray.runs.deletion.redaction import list_strings
from atgen_ray.runs.deletion.whole import UPLOADS, list_uploads
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import open_storage
from atgen_ray.store.run_records import UNDER_WAY
from atgen_ray.store.tables import api_files, batches, events, receipts, requests

DAY = 86_400.0
LOOK_SECONDS = 3_600.0
BY = "retention"

logger = logging.getLogger(__name__)


def apply_retention(
    journal: Journal, storage: str, retention: RetentionConfig, rehearse: bool = False
) -> list[str]:
    """Remove what is too old; return a line for each kind of thing, and for each run. With
    `rehearse` only tell.
    """
    with journal.database.reading() as connection:
        now = journal.database.clock(connection)
    done = []
    if retention.raw_answers_days is not None:
        before = now - retention.raw_answers_days * DAY
        count = sum(_empty_answers(journal, run.name, before, rehearse) for run in journal.runs())
        done.append(f"{count} raw answers of models")
    if retention.receipts_days is not None:
        old = receipts.c.time < now - retention.receipts_days * DAY
        done.append(f"{_drop_receipts(journal, old, rehearse)} receipts")
    if retention.runs_days is not None:
        done += _drop_runs(journal, storage, now - retention.runs_days * DAY, rehearse)
    if retention.uploads_days is not None:
        done += _drop_uploads(journal, storage, now - retention.uploads_days * DAY, rehearse)
    return done + _drop_expired(journal, storage, now, rehearse)


def watch_retention(
    journal: Journal, storage: str, retention: RetentionConfig, stop: threading.Event
) -> None:
    """Apply `retention` every hour until `stop` is set."""
    while True:
        try:
            for line in apply_retention(journal, storage, retention):
                logger.info("retention: %s removed", line)
        except Exception as error:  # the watch outlives any one trouble
            logger.warning("retention was not applied: %s", error)
        if stop.wait(LOOK_SECONDS):
            return


def _empty_answers(journal: Journal, run: str, before: float, rehearse: bool) -> int:
    """Empty the raw answers of rounds whose labels are complete: a run never reads them again."""
    complete = sa.select(events.c.round).where(
        (events.c.run == run) & (events.c.kind == "step") & (events.c.step == "annotation")
    )
    old = (requests.c.run == run) & (requests.c.time < before)
    old &= requests.c.response.is_not(None) & requests.c.round.in_(complete)
    if rehearse:
        with journal.database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(requests).where(old)
            return int(connection.execute(query).scalar_one())
    with journal.run_transaction(run) as connection:
        emptied = sa.update(requests).where(old).values(response=sa.null())
        return int(connection.execute(emptied).rowcount)


def _drop_receipts(journal: Journal, old: sa.ColumnElement[bool], rehearse: bool) -> int:
    if rehearse:
        with journal.database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(receipts).where(old)
            return int(connection.execute(query).scalar_one())
    with journal.database.writing() as connection:
        return int(connection.execute(sa.delete(receipts).where(old)).rowcount)


def _drop_runs(journal: Journal, storage: str, before: float, rehearse: bool) -> list[str]:
    done = []
    for record in journal.runs():
        if record.status in UNDER_WAY or record.updated >= before:
            continue
        last = journal.events(record.name, journal.last_sequence(record.name) - 1)
        if any(event.time >= before for event in last) or journal.has_live_controller(record.name):
            continue
        try:
            delete(journal, storage, Target("run", (record.name,)), BY, rehearse)
        except UserError as error:  # a controller has just taken it
            logger.info("run %s was kept: %s", record.name, error)
            continue
        done.append(f"run {record.name}")
    return done


def _drop_uploads(journal: Journal, storage: str, before: float, rehearse: bool) -> list[str]:
    fs, root = open_storage(storage)
    texts = [text for record in journal.runs() for text in list_strings(record.config)]
    done = []
    for name in list_uploads(storage):
        changed = fs.modified(f"{root}/{UPLOADS}/{name}")
        time = changed.timestamp() if isinstance(changed, datetime) else float(changed)
        if time < before and not any(text.endswith(f"{UPLOADS}/{name}") for text in texts):
            delete(journal, storage, Target("upload", (name,)), BY, rehearse)
            done.append(f"upload {name}")
    return done


def _drop_expired(journal: Journal, storage: str, now: float, rehearse: bool) -> list[str]:
    """Remove files that have expired, unless a run or a batch under way reads them."""
    with journal.database.reading() as connection:
        over = sa.select(api_files.c.id, api_files.c.upload).where(api_files.c.expires <= now)
        found = connection.execute(over).all()
        if not found:  # every service looks each hour, also one whose files have no end
            return []
        asked = sa.select(batches.c.asked).where(batches.c.ended.is_(None))
        read = {row.asked.get("input_file_id") for row in connection.execute(asked)}
    going = [record for record in journal.runs() if record.status in UNDER_WAY]
    texts = [text for record in going for text in list_strings(record.config)]
    done = []
    for id, upload in found:
        if id in read or any(text.endswith(f"{UPLOADS}/{upload}") for text in texts):
            continue
        with suppress(UserError):  # another replica has just removed it
            delete(journal, storage, Target("upload", (upload,)), BY, rehearse)
            done.append(f"upload {upload}")
    return done
