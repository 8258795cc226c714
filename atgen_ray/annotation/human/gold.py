"""Gold items: tasks with known answers that are mixed into everybody's queue, and the quiz of the
first of them.

A gold item is an open task that wants more answers than there are people, so that everybody may
have it and it is never settled: it has no label, costs nothing and does not count as work that is
left. To its annotator it looks like any other task: the same kind of id, the place and reason of a
task of the same round, and a draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import (
    choose_measure,
    find_threshold,
    measure_similarity,
)
from atgen_ray.annotation.human.reliability import Estimate, estimate_share
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    find_last_collections,
    open_task_store,
)
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.hashing import digest, digest_number
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, tasks

_STEP = 2**32


@dataclass(frozen=True)
class QuizState:
    """A person's quiz: how many of the `total` questions are answered and right, and whether it
    lets the person in, None before its end.
    """

    total: int
    answered: int
    right: int
    passed: bool | None


def has_gold(connection: sa.Connection, run: str) -> bool:
    """Return whether the run has gold items."""
    query = sa.select(tasks.c.example_id).where((tasks.c.run == run) & is_gold()).limit(1)
    return connection.execute(query).first() is not None


def is_gold() -> sa.ColumnElement[bool]:
    """Return the condition that a task is a gold item."""
    return tasks.c.gold.is_not(None)


class GoldMixer:
    """Decides where in a person's queue gold items come. Its methods run inside a transaction."""

    def __init__(self, run: str, annotator: str, config: HumanAnnotatorConfig) -> None:
        self._run = run
        self._annotator = annotator
        self._config = config

    def choose(self, connection: sa.Connection, fresh: Sequence[str], count: int) -> list[str]:
        """Return `fresh`, the next open tasks of the person, with gold items in some of their
        places, at most `count` in all. Before the end of the quiz there is nothing else.

        Whether a place has a gold item depends on a hash of run, person and the number of tasks
        that the person has had.
        """
        if self._config.gold.file is None:
            return list(fresh)
        unseen = self._list_unseen(connection)
        if self._config.gold.quiz:
            quiz = find_quiz(connection, self._run, self._annotator, self._config)
            if quiz.passed is False:
                return []
            if quiz.passed is None:
                left = quiz.total - self._count(connection, gold=True)
                return unseen[: min(left, count)]
        if not fresh:
            return []
        before = self._count(connection, gold=False)
        mixed = list[str]()
        waiting = list(fresh)
        for place in range(before, before + count):
            if unseen and self._is_due(place):
                mixed.append(unseen.pop(0))
            elif waiting:
                mixed.append(waiting.pop(0))
        return mixed

    def lets_in(self, connection: sa.Connection) -> bool:
        """Return whether the person may have other tasks than those of the quiz."""
        if self._config.gold.file is None or not self._config.gold.quiz:
            return True
        return bool(find_quiz(connection, self._run, self._annotator, self._config).passed)

    def expect_open(
        self, connection: sa.Connection, task: sa.RowMapping, mine: sa.RowMapping
    ) -> None:
        """Raise TaskConflictError where the answer to a gold item is final: in the quiz, whose
        right answers are told, or where the run has trained since, as with any other task.
        """
        if task["gold"] is None or mine["state"] == "leased":
            return
        quiz = _list_quiz(connection, self._run, self._annotator, self._config)
        if any(row["example_id"] == task["example_id"] for row in quiz):
            raise TaskConflictError("an answer of the quiz is final")
        collected = find_last_collections(connection, self._run)
        if self.imitate(mine["answered"], False, collected)[1]:
            raise TaskConflictError(
                f"the run has trained on the label of task '{task['example_id']}': an admin can "
                f"correct it"
            )

    def imitate(
        self,
        answered: float | None,
        final: bool,
        collections: Sequence[tuple[int, float]],
    ) -> tuple[int, bool]:
        """Return the round of a gold item, and whether its answer is final, as they would be for
        another task that was answered then, or would be now.
        """
        before = [round for round, time in collections if answered is None or time < answered]
        later = answered is not None and any(time >= answered for _, time in collections)
        return max(before, default=0) + 1, final or later

    def _is_due(self, place: int) -> bool:
        drawn = digest_number(f"{self._run}\n{self._annotator}\n{place}", size=4)
        return drawn < self._config.gold.share * _STEP

    def _list_unseen(self, connection: sa.Connection) -> list[str]:
        """Return the gold items that the person has not had, in an order of the person's own."""
        seen = sa.select(assignments.c.example_id).where(
            (assignments.c.run == self._run) & (assignments.c.annotator == self._annotator)
        )
        query = sa.select(tasks.c.example_id).where(
            (tasks.c.run == self._run) & is_gold() & tasks.c.example_id.not_in(seen)
        )
        ids = connection.execute(query).scalars().all()
        return sorted(ids, key=lambda id_: digest(self._annotator, "\n", id_, size=8))

    def _count(self, connection: sa.Connection, gold: bool) -> int:
        """Count the tasks that the person has had; with `gold` only gold items."""
        query = sa.select(sa.func.count()).where(
            (assignments.c.run == self._run) & (assignments.c.annotator == self._annotator)
        )
        if gold:
            ids = sa.select(tasks.c.example_id).where((tasks.c.run == self._run) & is_gold())
            query = query.where(assignments.c.example_id.in_(ids))
        return int(connection.execute(query).scalar_one())


def find_quiz(
    connection: sa.Connection, run: str, annotator: str, config: HumanAnnotatorConfig
) -> QuizState:
    """Return how a person stands in the quiz; without one it is passed."""
    rows = _list_quiz(connection, run, annotator, config)
    total = config.gold.quiz if has_gold(connection, run) else 0
    answered = [row for row in rows if row["state"] != "leased"]
    right = sum(is_right(row, config) for row in answered)
    passed = None
    if len(answered) >= total:
        passed = not total or right / total >= config.gold.pass_mark
    return QuizState(total, len(answered), right, passed)


def show_quiz(journal: Journal, run: str, annotator: str) -> dict[str, Any]:
    """Return a person's quiz: total, answered, right, passed, and of each answer its `id`, whether
    it is right (`agrees`), the right answers (`texts`) and the `explanation`.
    """
    config = open_task_store(journal, run).config
    with journal.database.reading() as connection:
        state = find_quiz(connection, run, annotator, config)
        rows = _list_quiz(connection, run, annotator, config) if state.total else []
    return {
        "total": state.total,
        "answered": state.answered,
        "right": state.right,
        "passed": state.passed,
        "answers": [
            {
                "id": row["example_id"],
                "input": row["input"],
                "text": row["text"],
                "agrees": is_right(row, config),
                "texts": row["gold"]["texts"],
                "explanation": row["gold"]["explanation"],
            }
            for row in rows
            if row["state"] != "leased"
        ],
    }


def score_gold(
    connection: sa.Connection, run: str, config: HumanAnnotatorConfig
) -> dict[str, Estimate]:
    """Return by person the share of gold items answered right, with its interval. Answers of the
    quiz do not count, because its questions were explained.
    """
    if not has_gold(connection, run):
        return {}
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    columns = [assignments.c[name] for name in ("annotator", "state", "text", "leased")]
    query = (
        sa.select(*columns, tasks.c.gold)
        .select_from(tasks)
        .join(assignments, joined)
        .where((tasks.c.run == run) & is_gold() & (assignments.c.state != "leased"))
        .order_by(assignments.c.annotator, assignments.c.leased, assignments.c.example_id)
    )
    given: dict[str, list[bool]] = {}
    for row in connection.execute(query).mappings():
        given.setdefault(row["annotator"], []).append(is_right(row, config))
    scores = {
        name: estimate_share(sum(right[config.gold.quiz :]), len(right[config.gold.quiz :]))
        for name, right in given.items()
    }
    return {name: score for name, score in scores.items() if score is not None}


def is_right(answer: sa.RowMapping, config: HumanAnnotatorConfig) -> bool:
    """Return whether an answer, with the `gold` of its task, agrees with one of the right ones by
    the run's measure. A skip or a flag does not.
    """
    text = answer["text"]
    right = answer["gold"]["texts"]
    if answer["state"] != "submitted" or not text:
        return False
    measure = choose_measure([text, *right], config.agreement)
    threshold = find_threshold(measure, config.adjudicate_below, config.agreement)
    return any(measure_similarity(text, each, measure) >= threshold for each in right)


def _list_quiz(
    connection: sa.Connection, run: str, annotator: str, config: HumanAnnotatorConfig
) -> Sequence[sa.RowMapping]:
    """Return the first gold items that a person had, as many as the quiz has."""
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    columns = [assignments.c[name] for name in ("example_id", "state", "text", "leased")]
    query = (
        sa.select(*columns, tasks.c.gold, tasks.c.input)
        .join(tasks, joined)
        .where((assignments.c.run == run) & (assignments.c.annotator == annotator) & is_gold())
        .order_by(assignments.c.leased, assignments.c.example_id)
        .limit(config.gold.quiz)
    )
    return connection.execute(query).mappings().all()
