"""Sampled outputs of each example, read from the features table."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from atgen_ray.core.arrays import Numbers
from atgen_ray.text.words import split_words


@dataclass(frozen=True)
class Sample:
    """A sampled output: its text, the natural log of its probability, and the number of its tokens
    with the end-of-turn token.
    """

    text: str
    logprob: float  # NaN where unknown
    tokens: int


def read_samples(features: pa.Table) -> list[list[Sample]]:
    """Return the samples of each row that have a text; none where the row has an error.

    If the table has no field `tokens` beside text and logprob, the words and the end-of-turn token
    are counted instead.
    """
    rows = zip(features["samples"].to_pylist(), features["error"].to_pylist(), strict=True)
    return [[] if error is not None else _read(samples or []) for samples, error in rows]


def mean_sample_probability(features: pa.Table) -> tuple[Numbers, Numbers]:
    """Return mean and variance over the M samples of p_m = exp(log p(y_m | x) / T_m), shapes (n,).

    T_m is the length of the sample in tokens. NaN where a row has no sample with a finite
    log-probability.
    """
    means = np.full(len(features), np.nan)
    variances = np.full(len(features), np.nan)
    for row, samples in enumerate(read_samples(features)):
        normalized = np.array(
            [sample.logprob / sample.tokens for sample in samples if np.isfinite(sample.logprob)]
        )
        if len(normalized):
            means[row] = np.exp(normalized).mean()
            variances[row] = np.exp(normalized).var()
    return means, variances


def _read(samples: list[dict]) -> list[Sample]:
    return [
        Sample(
            sample["text"],
            np.nan if sample["logprob"] is None else sample["logprob"],
            sample.get("tokens") or len(split_words(sample["text"])) + 1,
        )
        for sample in samples
        if sample is not None and sample["text"] is not None
    ]
