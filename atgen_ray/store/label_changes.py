"""Which rounds have trained on labels that people changed afterwards.

A change of a label is a row of `revisions` with the round of the label. Its id rises with time
within a run, and the event of a training says the last change that its labels had.
"""

import sqlalchemy as sa

from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import revisions

LABEL_CHANGES = "label_changes"  # in the event of a training: id of the last change it knew


def read_last_change(journal: Journal, run: str) -> int:
    """Return the id of the last change of a label of the run; 0 where none has changed."""
    changed = (revisions.c.run == run) & revisions.c.round.is_not(None)
    last = sa.select(sa.func.max(revisions.c.id)).where(changed)
    with journal.database.reading() as connection:
        return int(connection.execute(last).scalar_one() or 0)


def count_stale_labels(journal: Journal, run: str) -> dict[int, int]:
    """Return by round how many of the labels that its training used have changed since, for the
    rounds that have any.
    """
    changed = (revisions.c.run == run) & revisions.c.round.is_not(None)
    query = sa.select(revisions.c.id, revisions.c.round, revisions.c.example_id).where(changed)
    with journal.database.reading() as connection:
        changes = connection.execute(query).all()
    if not changes:
        return {}
    found: dict[int, int] = {}
    for event in journal.steps(run):
        if event.step != "training" or event.round is None:
            continue
        known = event.payload.get(LABEL_CHANGES, 0)
        stale = {
            change.example_id
            for change in changes
            if change.round <= event.round and change.id > known
        }
        if stale:
            found[event.round] = len(stale)
    return found


def describe_stale_labels(journal: Journal, run: str) -> list[str]:
    """Return one line for each round that has trained on labels which changed afterwards."""
    return [
        f"{count} {'label' if count == 1 else 'labels'} changed after round {round} had trained "
        f"on {'it' if count == 1 else 'them'}"
        for round, count in count_stale_labels(journal, run).items()
    ]
