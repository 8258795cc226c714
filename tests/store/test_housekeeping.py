"""Titles, archive and removal of runs, on both databases."""

from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from helpers.human_desk import HumanDesk

from atgen_ray.core.errors import RunBusyError, UserError
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store.housekeeping import remove_run, set_archived, set_title
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import TABLES


def count_rows(journal: Journal, run: str) -> int:
    found = 0
    with journal.database.reading() as connection:
        for table in TABLES.sorted_tables:
            key = table.c.get("run", table.c.get("name"))
            if key is not None:
                query = sa.select(sa.func.count()).where(key == run)
                found += connection.execute(query).scalar_one()
    return found


def test_a_title_and_the_archive_change_nothing_else(journal: Journal, run: str) -> None:
    set_title(journal, run, "Sonnets, second try")
    set_archived(journal, run, True)
    total = journal.total(run)
    assert (total.name, total.title, total.archived is None) == (run, "Sonnets, second try", False)
    assert journal.run(run).title == "Sonnets, second try"
    set_title(journal, run, None)
    set_archived(journal, run, False)
    assert (journal.total(run).title, journal.total(run).archived) == (None, None)


@pytest.mark.parametrize("title", ["", " x", "a\nb", "x" * 121])
def test_a_bad_title_is_refused(journal: Journal, run: str, title: str) -> None:
    with pytest.raises(UserError, match="title is"):
        set_title(journal, run, title)


def test_a_removed_run_leaves_nothing_and_others_stay(journal: Journal, tmp_path: Path) -> None:
    desks = [HumanDesk(journal, 3, price_per_label=0.5) for _ in range(2)]
    for desk in desks:
        desk.publish_tasks()
        queue = desk.queue("ann")
        (task,) = queue.lease(1)
        queue.answer(uuid4().hex, task["id"], "submitted", "label")
        desk.round().collect_labels()
        lease = journal.acquire(desk.run, ProcessIdentity("c"), 600, takeover=True)
        journal.record_annotations(lease, 1, [Annotation("x", "text", "m")])
        journal.record_dead_letters(lease, 1, [DeadLetter("y", "annotation", "no")])
        lease.release()
        RunFolder(str(tmp_path), desk.run).write_json("metrics.json", [])
    gone, stays = (desk.run for desk in desks)
    kept = count_rows(journal, stays)
    assert count_rows(journal, gone) == kept > 10
    remove_run(journal, str(tmp_path), gone)
    assert (count_rows(journal, gone), count_rows(journal, stays)) == (0, kept)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [stays]
    with pytest.raises(UserError, match="is unknown"):
        remove_run(journal, str(tmp_path), gone)


def test_a_run_that_is_driven_is_not_removed(journal: Journal, run: str, tmp_path: Path) -> None:
    journal.acquire(run, ProcessIdentity("alive"), 600)
    with pytest.raises(RunBusyError):
        remove_run(journal, str(tmp_path), run)
    assert journal.has_run(run)
