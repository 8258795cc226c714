"""What the log of provider requests adds up to: states and batch jobs of a run, tokens, and the
lengths of answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import requests, shards


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
    counts = (
        sa.select(requests.c.state, sa.func.count())
        .where(requests.c.run == run)
        .group_by(requests.c.state)
    )
    under_way = sa.select(shards.c.remote, shards.c.status, shards.c.size, shards.c.round)
    under_way = under_way.where(
        (shards.c.run == run) & ~shards.c.done & shards.c.remote.is_not(None)
    )
    with journal.database.reading() as connection:
        states = {str(state): int(count) for state, count in connection.execute(counts)}
        jobs = [
            dict(row) for row in connection.execute(under_way.order_by(shards.c.time)).mappings()
        ]
    return {"requests": states, "batches": jobs}


def count_tokens(journal: Journal, run: str) -> dict[str, int]:
    """Return the requests for labels that were sent and the tokens billed for them, under the names
    of the cost estimate.
    """
    sums = [
        sa.func.coalesce(sa.func.sum(column), 0)
        for column in (requests.c.prompt_tokens, requests.c.output_tokens)
    ]
    mine = (requests.c.run == run) & ~requests.c.example_id.startswith(JUDGED)
    query = sa.select(sa.func.count(), *sums).where(mine)
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
    means = (sa.func.avg(requests.c.prompt_tokens), sa.func.avg(requests.c.output_tokens))
    answered = requests.c.run.in_(runs) & (requests.c.annotator == annotator)
    answered &= (requests.c.state == "answered") & requests.c.output_tokens.is_not(None)
    answered &= ~requests.c.example_id.startswith(JUDGED)
    with journal.database.reading() as connection:
        query = sa.select(sa.func.count(), *means).where(answered)
        count, prompt, output = connection.execute(query).one()
    return MeasuredAnswers(int(count), float(prompt), float(output)) if count else None
