"""What the log of provider requests adds up to: states and batch jobs of a run, tokens, and the
lengths of answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import request_totals, shards


@dataclass(frozen=True)
class MeasuredAnswers:
    """Number of answers to questions, and their mean tokens."""

    count: int
    prompt: float
    output: float


def summarize_requests(journal: Journal, run: str) -> dict[str, Any]:
    """Return how many requests of a run are in each state, and its batch jobs under way: provider's
    id, status and size.
    """
    counts = select_states(request_totals.c.run == run)
    under_way = sa.select(shards.c.remote, shards.c.status, shards.c.size, shards.c.round)
    under_way = under_way.where(
        (shards.c.run == run) & ~shards.c.done & shards.c.remote.is_not(None)
    )
    with journal.database.reading() as connection:
        states = {state: int(count) for _, state, count in connection.execute(counts)}
        jobs = [
            dict(row) for row in connection.execute(under_way.order_by(shards.c.time)).mappings()
        ]
    return {"requests": states, "batches": jobs}


def select_states(which: sa.ColumnElement[bool]) -> sa.Select[*tuple[Any, ...]]:
    """Select run, state and number of the requests `which`, without states that none is in."""
    total = sa.func.sum(request_totals.c.requests)
    query = sa.select(request_totals.c.run, request_totals.c.state, total).where(which)
    group = (request_totals.c.run, request_totals.c.state)
    return query.group_by(*group).having(total > 0).order_by(*group)


def count_tokens(journal: Journal, run: str) -> dict[str, int]:
    """Return the requests for labels that were sent and the tokens billed for them, under the names
    of the cost estimate.
    """
    sums = [
        sa.func.coalesce(sa.func.sum(request_totals.c[name]), 0)
        for name in ("requests", "prompt_tokens", "output_tokens")
    ]
    query = sa.select(*sums).where((request_totals.c.run == run) & ~request_totals.c.judged)
    with journal.database.reading() as connection:
        sent, prompt, output = connection.execute(query).one()
    return {
        "annotator_requests": int(sent),
        "annotator_prompt_tokens": int(prompt),
        "annotator_output_tokens": int(output),
        "annotator_output_tokens_at_most": int(output),
    }


def measure_answers(
    journal: Journal, runs: Sequence[str], annotator: str
) -> MeasuredAnswers | None:
    """Return what the answers of an annotator to questions for labels were billed in `runs`; None
    without any.
    """
    names = ("billed", "prompt_tokens", "output_tokens")
    sums = [sa.func.coalesce(sa.func.sum(request_totals.c[name]), 0) for name in names]
    answered = request_totals.c.run.in_(runs) & (request_totals.c.annotator == annotator)
    answered &= (request_totals.c.state == "answered") & ~request_totals.c.judged
    with journal.database.reading() as connection:
        count, prompt, output = connection.execute(sa.select(*sums).where(answered)).one()
    return MeasuredAnswers(int(count), int(prompt) / count, int(output) / count) if count else None
