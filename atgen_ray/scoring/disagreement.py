"""Uncertainty by the disagreement of sampled outputs with each other and with the greedy output."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring.samples import Sample, read_samples
from atgen_ray.text.answers import AnswerForm, normalize_answer
from atgen_ray.text.overlap import pairwise_bleu, pairwise_f1

Overlap = Literal["bleu", "f1"]
OVERLAPS = {"bleu": pairwise_bleu, "f1": pairwise_f1}


def bleu_variance(features: pa.Table) -> Numbers:
    """Return BLEUVar, (1 / (M (M - 1))) sum_i sum_j (1 - BLEU(y_i, y_j))^2 over samples i and
    j != i, in [0, 1], shape (n,).

    After Xiao, Gomez and Gal (arXiv 2006.08344). Both directions count, since BLEU is not
    symmetric. NaN where a row has fewer than two samples.
    """
    found = np.full(len(features), np.nan)
    for row, samples in enumerate(read_samples(features)):
        if len(samples) >= 2:
            differences = (1 - pairwise_bleu([sample.text for sample in samples])) ** 2
            # The diagonal is 0, so the sum is over different samples.
            found[row] = differences.sum() / (len(samples) * (len(samples) - 1))
    return found


def sample_distance(features: pa.Table, overlap: Overlap) -> Numbers:
    """Return the mean difference (1/M) sum_m (1 - sim(y, y_m)) of the samples from the greedy
    output y, in [0, 1], shape (n,).

    NaN where a row has no samples or no greedy output.
    """
    found = np.full(len(features), np.nan)
    greedy = features["text"].to_pylist()
    for row, samples in enumerate(read_samples(features)):
        text = greedy[row]
        if samples and text is not None:
            similar = OVERLAPS[overlap]([text, *(sample.text for sample in samples)])[0, 1:]
            found[row] = 1 - similar.mean()
    return found


def answer_shares(features: pa.Table, form: AnswerForm) -> list[Numbers]:
    """Return the shares of the different answers among the samples of each row, largest first;
    empty where there are no samples.
    """
    return [
        _shares([normalize_answer(sample.text, form) for sample in samples])
        for samples in read_samples(features)
    ]


def meaning_shares(features: pa.Table, threshold: float, weighted: bool) -> list[Numbers]:
    """Return the probabilities of the meanings among the samples of each row, largest first; empty
    where there are no samples.

    A sample has the meaning of the first sample with which its word F1 is at least `threshold`.
    This replaces the entailment in both directions of Kuhn et al. (ICLR 2023) and needs no model. A
    meaning has the share of its samples, or if `weighted`, the share of the probabilities of its
    different samples.
    """
    return [
        _meanings(samples, threshold, weighted) if samples else np.empty(0)
        for samples in read_samples(features)
    ]


def entropy_of(shares: Sequence[Numbers]) -> Numbers:
    """Return the entropy -sum_c p_c log p_c in nats of each row's shares, shape (n,); NaN where a
    row has none.
    """
    return np.array([-(row * np.log(row)).sum() + 0.0 if len(row) else np.nan for row in shares])


def _shares(answers: Sequence[str]) -> Numbers:
    if not answers:
        return np.empty(0)
    _, counts = np.unique(np.array(answers, dtype=object), return_counts=True)
    return np.asarray(np.sort(counts)[::-1] / len(answers), dtype=np.float64)


def _meanings(samples: list[Sample], threshold: float, weighted: bool) -> Numbers:
    """Return the probabilities of the meanings of one row, n > 0 samples, largest first."""
    similar = pairwise_f1([sample.text for sample in samples])
    first: list[int] = []  # the first sample of each meaning
    meaning = np.empty(len(samples), dtype=np.int64)
    for row in range(len(samples)):
        alike = [index for index, other in enumerate(first) if similar[row, other] >= threshold]
        if not alike:
            first.append(row)
        meaning[row] = alike[0] if alike else len(first) - 1
    weights = np.ones(len(samples))
    logprobs = np.array([sample.logprob for sample in samples])
    if weighted and np.isfinite(logprobs).all():
        # A text that was drawn twice counts once: its probability says already how frequent it is.
        different = {sample.text: row for row, sample in reversed(list(enumerate(samples)))}
        weights = np.zeros(len(samples))
        rows = list(different.values())
        weights[rows] = np.exp(logprobs[rows] - logprobs.max())
    masses = np.bincount(meaning, weights=weights)
    return np.asarray(np.sort(masses[masses > 0])[::-1] / masses.sum())
