"""Gold items: tasks with known answers that are mixed into everybody's queue, and the quiz of the
first of them.

A gold item is an open task that wants more answers than there are people, so that everybody may
have it and it is never settled: it has no label, costs nothing and does not count as work that is
left. To its annotator it looks like any other task: the same kind of id, the place and reason of a
task of the same round, and a draft.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import (
    choose_measure,
    find_threshold,
    measure_similarity,
)
from atgen_ray.annotation.human.label_import import read_rows
from atgen_ray.annotation.human.reliability import Estimate, estimate_share
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    find_last_collections,
    open_task_store,
)
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import digest, digest_number
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments, tasks

EVERYBODY = 1_000_000  # answers that a gold item wants
LIKE = 200  # tasks whose ids, places and reasons gold items are made like
_STEP = 2**32


@dataclass(frozen=True)
class GoldItem:
    """An input with its right answers, of which any will do; a draft, why it is so, and the other
    columns of its row.
    """

    input: str
    texts: tuple[str, ...]
    draft: str | None = None
    explanation: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QuizState:
    """A person's quiz: how many of the `total` questions are answered and right, and whether it
    lets the person in, None before its end.
    """

    total: int
    answered: int
    right: int
    passed: bool | None


def read_gold(file: str, called: str) -> list[GoldItem]:
    """Read gold items from a `.csv`, `.jsonl` or `.parquet` file: input and text (the right
    answer), and draft and explanation where there are; several rows of one input hold several right
    answers.

    Raises:
        UserError: it cannot be read, or a row is no gold item; `called` is how the message begins.
    """
    found: dict[str, GoldItem] = {}
    for place, row in enumerate(read_rows(Path(file), called), 1):
        names = ("input", "text", "draft", "explanation")
        given = dict[str, Any]()
        if isinstance(row, dict):
            given = {name: row[name] for name in names if row.get(name) is not None}
        texts = all(isinstance(value, str) for value in given.values())
        if not given.get("input") or not given.get("text") or not texts:
            raise UserError(
                f"{called}, row {place}, expected texts under the names input and text, and draft "
                f"and explanation where there are"
            )
        known = found.get(given["input"])
        found[given["input"]] = GoldItem(
            given["input"],
            (*(known.texts if known else ()), given["text"]),
            given.get("draft") or (known.draft if known else None),
            given.get("explanation") or (known.explanation if known else None),
            {name: value for name, value in row.items() if isinstance(value, str)},
        )
    if not found:
        raise UserError(f"{called}, which holds no row, expected gold items")
    return list(found.values())


def check_gold(config: HumanAnnotatorConfig, key: str) -> None:
    """Check that the gold items of an annotator can be read, and that the quiz has enough of them.

    Raises:
        UserError: they cannot, or there are fewer than the quiz asks for.
    """
    if config.gold.file is None:
        return
    items = read_gold(config.gold.file, f"{key}.gold.file is '{config.gold.file}'")
    if len(items) < config.gold.quiz:
        raise UserError(
            f"{key}.gold.quiz is {config.gold.quiz}, expected no more than the {len(items)} inputs "
            f"in {key}.gold.file"
        )


def publish_gold(
    connection: sa.Connection,
    run: str,
    config: HumanAnnotatorConfig,
    ids: Sequence[str],
    now: float,
) -> int:
    """Insert the gold items of a run beside its first tasks, unless they are there; return how many
    were new.

    Args:
        ids: of the pool's examples, which no gold item must have.
    """
    here = tasks.c.run == run
    if config.gold.file is None or has_gold(connection, run):
        return 0
    like = connection.execute(
        sa.select(tasks).where(here & (tasks.c.state == "open")).order_by(tasks.c.rank).limit(LIKE)
    ).mappings()
    models = like.all()
    if not models:
        return 0
    items = read_gold(config.gold.file, f"annotator.gold.file is '{config.gold.file}'")
    used = {*ids, *connection.execute(sa.select(tasks.c.example_id).where(here)).scalars()}
    rows = []
    for place, item in enumerate(items):
        model = models[digest_number(run, item.input, size=8) % len(models)]
        id_ = _imitate(model["example_id"], f"{run}\n{item.input}", used)
        used.add(id_)
        suggestion = model["suggestion"]
        if suggestion is not None:
            # Without a draft of its own, that of another item: who takes it unread is seen.
            other = items[(place + 1) % len(items)].texts[0]
            suggestion = suggestion | {"text": item.draft or other}
        rows.append(
            {
                "run": run,
                "example_id": id_,
                "round": model["round"],
                "rank": model["rank"],
                "wanted": EVERYBODY,
                "state": "open",
                "input": item.input,
                "suggestion": suggestion,
                "why": model["why"],
                "context": _choose_columns(item, model["context"]),
                "changed": now,
                "gold": {"texts": list(item.texts), "explanation": item.explanation},
            }
        )
    connection.execute(sa.insert(tasks), rows)
    return len(rows)


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
    joined = (tasks.c.run == assignments.c.run) & (tasks.c.example_id == assignments.c.example_id)
    columns = [assignments.c[name] for name in ("annotator", "state", "text", "leased")]
    query = (
        sa.select(*columns, tasks.c.gold)
        .join(tasks, joined)
        .where((assignments.c.run == run) & is_gold() & (assignments.c.state != "leased"))
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


def _choose_columns(
    item: GoldItem, like: Sequence[tuple[str, str]] | None
) -> list[tuple[str, str]] | None:
    """Return the columns beside the input that other tasks have, with the texts of the item."""
    if like is None:
        return None
    return [(name, item.columns.get(name, "")) for name, _ in like]


def _imitate(id_: str, seed: str, used: set[str]) -> str:
    """Return an id that is none of `used` and looks like `id_`: hexadecimal digits of that length,
    or the same with other decimal digits.
    """
    for turn in range(100):
        drawn = digest(seed, str(turn), size=32)
        made = drawn[: len(id_)]
        if not re.fullmatch(r"[0-9a-f]{16,64}", id_):
            numbers = str(int(drawn, 16))[1:]
            digits = re.findall(r"\d", id_)
            parts = re.split(r"\d", id_)
            fresh = numbers[: len(digits)].ljust(len(digits), "0")
            made = "".join(
                f"{part}{digit}" for part, digit in zip(parts, [*fresh, ""], strict=True)
            )
        if made not in used:
            return made
    return digest(seed, size=16)
