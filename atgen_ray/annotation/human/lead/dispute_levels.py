"""What each threshold of agreement would send to an admin, from the first answers of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from atgen_ray.annotation.human.agreement import (
    Measure,
    choose_measure,
    find_threshold,
    measure_similarity,
)
from atgen_ray.annotation.human.progress import choose_shared, is_comparable
from atgen_ray.annotation.human.reliability import estimate_share
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import assignments

FIRST = 200  # examples that are looked at
ENOUGH = 40  # examples from which on a threshold is suggested
CAUGHT = 0.95  # share of the answers to different examples that the suggested one tells apart
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def measure_levels(journal: Journal, run: str) -> dict[str, Any] | None:
    """Measure what each threshold would send to an admin, on the first examples with two or more
    answers; None where there are none whose answers are compared by degrees.

    Returns:
        The `measure`, the threshold that holds (`current`), the number of `examples` looked at and
        of those among them that are short and compared as a whole (`short`); for each of `levels`
        the `threshold`, the share of the examples that it sends (`sent`, with `low` and `high`,
        95 % by Wilson), and the share of pairs of answers to different examples that it takes for
        different (`caught`); and the lowest threshold that takes 95 % of these for different, as
        `suggested`, None for fewer than 40 examples.
    """
    task_store = open_task_store(journal, run)
    return weigh_levels(_read_first(journal, run), task_store.config)


def weigh_levels(
    answers: Sequence[Sequence[str]], config: HumanAnnotatorConfig
) -> dict[str, Any] | None:
    """Return what `measure_levels` does, for the answers to each example."""
    measured: list[tuple[Measure, Sequence[str]]] = [
        (choose_measure(texts, config.agreement), texts) for texts in answers if len(texts) > 1
    ]
    graded = [texts for measure, texts in measured if measure != "exact"]
    if not graded:
        return None
    measure = next(measure for measure, _ in measured if measure != "exact")
    same = [_central_similarity(texts, measure) for texts in graded]
    others = [
        measure_similarity(texts[0], graded[(place + 1) % len(graded)][-1], measure)
        for place, texts in enumerate(graded)
        if len(graded) > 1
    ]
    levels = [_weigh_level(threshold, same, others) for threshold in LEVELS]
    enough = len(graded) >= ENOUGH
    telling = [each["threshold"] for each in levels if (each["caught"] or 0.0) >= CAUGHT]
    return {
        "measure": measure,
        "current": find_threshold(measure, config.adjudicate_below, config.agreement),
        "examples": len(graded),
        "short": len(measured) - len(graded),
        "levels": levels,
        "suggested": telling[0] if enough and telling else None,
    }


def _weigh_level(
    threshold: float, same: Sequence[float], others: Sequence[float]
) -> dict[str, float | None]:
    """Return what one threshold sends and catches."""
    sent = estimate_share(sum(each < threshold for each in same), len(same))
    return {
        "threshold": threshold,
        "sent": sent.value if sent else None,
        "low": sent.low if sent else None,
        "high": sent.high if sent else None,
        "caught": sum(each < threshold for each in others) / len(others) if others else None,
    }


def _central_similarity(texts: Sequence[str], measure: Measure) -> float:
    """Return the highest threshold at which most of `texts` agree with the central one."""
    similar = np.eye(len(texts))
    for one in range(len(texts)):
        for other in range(one):
            similar[one, other] = measure_similarity(texts[one], texts[other], measure)
            similar[other, one] = similar[one, other]
    centre = int(similar.sum(axis=1).argmax())
    return float(np.sort(similar[centre])[::-1][len(texts) // 2])


def _read_first(journal: Journal, run: str) -> list[list[str]]:
    """Return the submitted answers to the first examples that have two or more."""
    twice = choose_shared(run, sa.func.max(assignments.c.answered), FIRST)
    with journal.database.reading() as connection:
        ids = list(connection.execute(twice).scalars())
        query = sa.select(assignments.c.example_id, assignments.c.text).where(
            is_comparable(run) & assignments.c.example_id.in_(ids)
        )
        found: Mapping[str, list[str]] = {id_: [] for id_ in ids}
        for id_, text in connection.execute(query.order_by(assignments.c.answered)):
            found[id_].append(text)
    return list(found.values())
