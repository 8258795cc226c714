"""Majority vote over several answers, and its confidence (self-consistency: Wang et al., arXiv
2203.11171).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from atgen_ray.text.overlap import pairwise_f1


def count_votes(
    answers: Sequence[str], asked: int, agreement: Literal["exact", "overlap"]
) -> tuple[int, float]:
    """Return which of `answers` is the label, and the confidence in it from 0 to 1.

    Args:
        answers: those that passed the checks, at least one, in a fixed order that breaks ties.
        asked: votes asked for; the ones that failed agree with nobody.
        agreement: `exact`: the confidence is the share of votes with the winner's text (case and
            white space aside); `overlap`: the winner has the largest mean word F1 with all votes,
            which is the confidence.
    """
    if agreement == "exact":
        same = [" ".join(answer.casefold().split()) for answer in answers]
        counts = [same.count(text) for text in same]
        winner = counts.index(max(counts))
        return winner, counts[winner] / asked

    means = pairwise_f1(answers).sum(axis=1) / asked
    winner = int(np.argmax(means))
    return winner, float(min(1.0, means[winner]))


def measure_agreement(labels: Sequence[str]) -> float:
    """Return the mean F1 of the words of every two of `labels`, from 0 to 1; 1 for fewer than
    two.
    """
    if len(labels) < 2:
        return 1.0
    above = np.triu_indices(len(labels), k=1)
    return float(pairwise_f1(labels)[above].mean())
