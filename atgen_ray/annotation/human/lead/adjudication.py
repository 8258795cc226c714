"""Adjudication by an admin: tasks whose answers disagree, and tasks that somebody flagged or
skipped.
"""

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import choose_measure, compare_texts
from atgen_ray.annotation.human.gold import is_gold
from atgen_ray.annotation.human.resolution import HumanAnswer, weigh_answers
from atgen_ray.annotation.human.round_tasks import name_entry
from atgen_ray.annotation.human.task_store import (
    TaskConflictError,
    TaskStore,
    is_closed,
    open_task_store,
)
from atgen_ray.config import StoppingConfig
from atgen_ray.core.hashing import hash_text
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Entry, Ledger
from atgen_ray.store.tables import assignments, tasks

Decision = Literal["label", "drop", "reopen"]
PASSED = ("flagged", "skipped")  # states of an assignment whose person left the task to others
AT_ONCE = 10_000  # tasks that `accept_agreeing` looks at in one transaction


def list_disputes(
    journal: Journal, run: str, limit: int = 50, offset: int = 0
) -> list[dict[str, Any]]:
    """Return the tasks that wait for a decision, then skipped ones that others may still label,
    with all answers side by side.

    Both are in the order of the queue; the `state` of the first is disputed, of the others open.
    The answers of a task are in an order that a hash gives, so that no person and no moment is
    preferred. Each answer has its `similarity` to the suggestion (exact, chrf, edit), or None
    without one; each task the mean similarity of its answers (`agreement`, None where somebody
    flagged it, or where it was skipped) by its `measure`, and whether another person may be asked
    (`may_ask`).
    """
    task_store = open_task_store(journal, run)
    query = (
        sa.select(tasks)
        .where(_decidable(task_store))
        .order_by(tasks.c.state, tasks.c.round, tasks.c.rank)
    )
    with journal.database.reading() as connection:
        rows = connection.execute(query.limit(limit).offset(offset)).mappings().all()
        answers = task_store.answers(connection, [row["example_id"] for row in rows])
    return [_describe_task(task_store, row, answers[row["example_id"]]) for row in rows]


def _describe_task(
    task_store: TaskStore, row: sa.RowMapping, answers: Sequence[sa.RowMapping]
) -> dict[str, Any]:
    """Return a task that waits for a decision, with its answers."""
    given = _list_given(answers)
    compared = row["state"] == "disputed" and given and not _is_flagged(answers)
    texts = [answer.text or "" for answer in given]
    shown = sorted(answers, key=lambda each: hash_text(f"{row['example_id']}\n{each['annotator']}"))
    return {
        "id": row["example_id"],
        "agreement": weigh_answers(given, task_store.config).agreement if compared else None,
        "measure": choose_measure(texts, task_store.config.agreement) if compared else None,
        "may_ask": _may_ask(row, answers, task_store.config.skips),
        "state": row["state"],
        "round": row["round"],
        "input": row["input"],
        "why": row["why"],
        "suggestion": row["suggestion"],
        "answers": [_describe(answer, row["suggestion"]) for answer in shown],
    }


def count_disputes(journal: Journal, run: str) -> int:
    """Return how many tasks `list_disputes` has."""
    query = sa.select(sa.func.count()).where(_decidable(open_task_store(journal, run)))
    with journal.database.reading() as connection:
        return int(connection.execute(query).scalar_one())


def decide(
    journal: Journal,
    run: str,
    example_id: str,
    by: str,
    verdict: Decision,
    text: str = "",
    comment: str = "",
) -> str:
    """Label a task, drop it, or reopen a flagged or skipped one for everybody; return the task's
    new state.

    Raises:
        TaskUnknownError: there is no such run or task.
        TaskConflictError: it is neither in dispute nor skipped, or was decided otherwise, or is to
            be given back although nobody flagged or skipped it.
    """
    task_store = open_task_store(journal, run)
    decision = {"verdict": verdict, "text": text, "comment": comment, "by": by}
    with journal.run_transaction(run) as connection:
        task = task_store.task(connection, example_id)
        if task["decision"] == decision:
            return str(task["state"])  # the same decision was made before
        here = task_store.mine & (tasks.c.example_id == example_id)
        if (
            connection.execute(
                sa.select(tasks.c.example_id).where(here & _decidable(task_store))
            ).first()
            is None
        ):
            raise TaskConflictError(
                f"task '{example_id}' is {task['state']}, expected one in dispute or skipped"
            )
        now = journal.database.clock(connection)
        if verdict == "reopen":
            passed = (assignments.c.run == run) & (assignments.c.example_id == example_id)
            passed &= assignments.c.state.in_(PASSED)
            freed = (
                sa.update(assignments)
                .where(passed)
                .values(state="leased", until=now, answered=None, note=None)
            )
            if not connection.execute(freed).rowcount:
                raise TaskConflictError(
                    f"task '{example_id}' was neither flagged nor skipped, expected a label, or "
                    f"to drop it"
                )
        else:
            connection.execute(sa.update(tasks).where(here).values(decision=decision))
        return task_store.settle(connection, example_id, now)


def undo_decision(journal: Journal, run: str, example_id: str, by: str) -> str:
    """Take back an admin's label or drop, as long as the run has not taken it; return the task's
    state.

    Raises:
        TaskUnknownError: there is no such run or task.
        TaskConflictError: nobody decided the task, or the run has taken the decision.
    """
    task_store = open_task_store(journal, run)
    with journal.run_transaction(run) as connection:
        task = task_store.task(connection, example_id)
        if task["decision"] is None:
            raise TaskConflictError(
                f"task '{example_id}' has no decision that {by} could take back"
            )
        if is_closed(task):
            raise TaskConflictError(
                f"the run has taken the decision on task '{example_id}', expected a correction of "
                f"its label"
            )
        here = task_store.mine & (tasks.c.example_id == example_id)
        connection.execute(sa.update(tasks).where(here).values(decision=sa.null()))
        return task_store.settle(connection, example_id, journal.database.clock(connection))


def ask_another(journal: Journal, run: str, example_id: str) -> str:
    """Ask one more person instead of deciding a dispute, and reserve the price of the answer;
    return the task's new state, open.

    Raises:
        TaskUnknownError: there is no such run or task.
        TaskConflictError: its answers do not disagree, too many people skipped it, or the budget
            does not pay for another answer.
    """
    task_store = open_task_store(journal, run)
    stopping = StoppingConfig.model_validate(journal.run(run).config.get("stopping") or {})
    with journal.run_transaction(run) as connection:
        task = task_store.task(connection, example_id)
        answers = task_store.answers(connection, [example_id])[example_id]
        if not _may_ask(task, answers, task_store.config.skips):
            raise TaskConflictError(
                f"task '{example_id}' is {task['state']}, expected one whose answers disagree"
            )
        wanted = len(_list_given(answers)) + 1
        first = task["collected"] is None  # answers to what the run has collected cost nothing
        if first and task["price"] and wanted > (task["most"] or task["wanted"]):
            entry = Entry(name_entry(example_id, wanted), example_id, task["price"])
            ledger = Ledger(run, stopping)
            if not ledger.reserve(connection, task["round"], "human", [entry])[0]:
                raise TaskConflictError(
                    f"another answer to task '{example_id}' would exceed the run's budget"
                )
        here = task_store.mine & (tasks.c.example_id == example_id)
        most = max(task["most"] or task["wanted"], wanted)
        connection.execute(sa.update(tasks).where(here).values(wanted=wanted, most=most))
        return task_store.settle(connection, example_id, journal.database.clock(connection))


def accept_agreeing(journal: Journal, run: str, at_least: float, by: str) -> list[str]:
    """Label each task in dispute of whose answers more than half have a similarity of `at_least` to
    the one nearest to all others, with that one; return the ids of the tasks.

    Each is a decision of the admin `by`, which `undo_decision` takes back.
    """
    task_store = open_task_store(journal, run)
    config = task_store.config.model_copy(update={"adjudicate_below": at_least})
    disputed = task_store.mine & (tasks.c.state == "disputed")
    query = sa.select(tasks.c.example_id).where(disputed).order_by(tasks.c.round, tasks.c.rank)
    accepted = []
    with journal.run_transaction(run) as connection:
        now = journal.database.clock(connection)
        ids = list(connection.execute(query.limit(AT_ONCE)).scalars())
        for id_, answers in task_store.answers(connection, ids).items():
            given = _list_given(answers)
            if len(given) < 2 or _is_flagged(answers):
                continue
            consensus = weigh_answers(given, config)
            if not consensus.agreed:
                continue
            decision = {
                "verdict": "label",
                "text": given[consensus.centre].text,
                "comment": f"nearest to all others, which agree by {at_least:g} or more",
                "by": by,
            }
            here = task_store.mine & (tasks.c.example_id == id_)
            connection.execute(sa.update(tasks).where(here).values(decision=decision))
            task_store.settle(connection, id_, now)
            accepted.append(id_)
    return accepted


def _may_ask(task: sa.RowMapping, answers: Sequence[sa.RowMapping], skips: int) -> bool:
    """Return whether one more person may be asked: the answers disagree, and nobody flagged the
    task, and no more people skipped it than may.
    """
    skipped = sum(answer["state"] == "skipped" for answer in answers)
    return (
        task["state"] == "disputed"
        and len(_list_given(answers)) > 1
        and not _is_flagged(answers)
        and skipped <= skips
    )


def _is_flagged(answers: Sequence[sa.RowMapping]) -> bool:
    """Return whether somebody flagged the task."""
    return any(answer["state"] == "flagged" for answer in answers)


def _list_given(answers: Sequence[sa.RowMapping]) -> list[HumanAnswer]:
    """Return the submitted ones among the answers to a task."""
    return [
        HumanAnswer(answer["annotator"], answer["state"], answer["text"], answer["note"])
        for answer in answers
        if answer["state"] == "submitted"
    ]


def _decidable(task_store: TaskStore) -> sa.ColumnElement[bool]:
    """Return the condition for tasks that an admin may decide: disputed ones, and unsettled ones
    that somebody skipped.
    """
    skipped = sa.select(assignments.c.example_id).where(
        (assignments.c.run == task_store.run) & (assignments.c.state == "skipped")
    )
    return (
        task_store.mine
        & ~is_gold()
        & (
            (tasks.c.state == "disputed")
            | ((tasks.c.state == "open") & tasks.c.example_id.in_(skipped))
        )
    )


def _describe(answer: sa.RowMapping, suggestion: dict[str, Any] | None) -> dict[str, Any]:
    """Return an answer with its similarity to the suggestion."""
    similarity = None
    if suggestion and answer["text"]:
        compared = compare_texts(answer["text"], suggestion["text"])
        similarity = {"exact": compared.exact, "chrf": compared.chrf, "edit": compared.edit}
    return {
        "annotator": answer["annotator"],
        "state": answer["state"],
        "text": answer["text"],
        "note": answer["note"],
        "seconds": answer["seconds"],
        "similarity": similarity,
    }
