"""What a person sees of a task: neither the answers of others nor what is kept from them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.draft_experiment import choose_drafts
from atgen_ray.annotation.human.gold import GoldMixer
from atgen_ray.annotation.human.task_store import TaskStore, find_last_collections, is_settled
from atgen_ray.store.tables import assignments, revisions, tasks

Body = dict[str, Any]
OWN = ("state", "draft", "text", "note", "revision", "until", "answered")


class TaskView:
    """The tasks of one run as one person sees them, within transactions."""

    def __init__(self, store: TaskStore, gold: GoldMixer, annotator: str) -> None:
        self._store = store
        self._gold = gold
        self._annotator = annotator

    def show(self, connection: sa.Connection, ids: Sequence[str], now: float) -> list[Body]:
        """Return tasks as their annotator sees them: without the answers of others."""
        joined = (
            (tasks.c.run == assignments.c.run)
            & (tasks.c.example_id == assignments.c.example_id)
            & (assignments.c.annotator == self._annotator)
        )
        own = [assignments.c[name].label(f"own_{name}") for name in OWN]
        query = sa.select(tasks, *own, self._find_opener()).outerjoin(assignments, joined)
        query = query.where(self._store.mine & tasks.c.example_id.in_(list(ids)))
        rows = {row["example_id"]: row for row in connection.execute(query).mappings()}
        collected = find_last_collections(connection, self._store.run)
        return [self._describe(rows[id_], now, collected) for id_ in ids]

    def _find_opener(self) -> sa.Label[str]:
        """Return the column of who sent this person's answer to a task back last."""
        mine = (
            (revisions.c.run == tasks.c.run)
            & (revisions.c.example_id == tasks.c.example_id)
            & (revisions.c.annotator == self._annotator)
            & (revisions.c.kind == "reopened")
        )
        last = sa.select(revisions.c.by).where(mine).order_by(revisions.c.id.desc()).limit(1)
        return last.correlate(tasks).scalar_subquery().label("opener")

    def _describe(
        self, row: sa.RowMapping, now: float, collected: Sequence[tuple[int, float]]
    ) -> Body:
        """Return one task with this person's work on it."""
        state = row["own_state"] or "open"  # open: looked at
        leased = state in ("leased", "open")
        # With blind drafts a person sees the suggestion only after typing something.
        begun = not leased or row["own_draft"] is not None
        drafts = choose_drafts(self._store.config.drafts, self._store.run, row["example_id"])
        blind = drafts == "blind" and not begun and row["suggestion"] is not None
        final = row["decision"] is not None or is_settled(row, collected)
        if row["gold"] is not None:
            round, final = self._gold.imitate(row["own_answered"], final, collected)
        return {
            "id": row["example_id"],
            "round": row["round"] if row["gold"] is None else round,
            "input": row["input"],
            "why": row["why"],
            "suggestion": None if blind or drafts == "off" else row["suggestion"],
            "blind": blind,
            "state": state,
            "closed": row["state"] != "open" if leased else final,
            "draft": row["own_draft"],
            "text": row["own_text"],
            "note": row["own_note"],
            "sent_back_by": row["opener"] if state == "leased" and row["own_note"] else None,
            "revision": row["own_revision"] or 0,
            "lease_seconds": max(0.0, row["own_until"] - now) if state == "leased" else 0.0,
        }
