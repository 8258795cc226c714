"""Strategies that measure uncertainty by sampled outputs.

- `semantic_entropy` picks examples whose samples mean different things.
- `self_consistency` picks examples to which the samples give different answers.
- `cocoa` picks examples whose greedy output is unlikely and contradicted by the samples.
- `ensp` picks examples whose samples the model finds unlikely, or unevenly likely.
- `bleuvar` picks examples whose samples differ from each other in their words.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from atgen_ray.core.arrays import Numbers
from atgen_ray.scoring import UNCERTAINTIES, Uncertainty, bleu_variance
from atgen_ray.scoring.disagreement import (
    Overlap,
    answer_shares,
    entropy_of,
    meaning_shares,
    sample_distance,
)
from atgen_ray.scoring.samples import mean_sample_probability
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Scores, Strategy
from atgen_ray.text.answers import AnswerForm


class SemanticEntropyParameters(NoiseFilterParameters):
    """Entropy over meanings, not wordings, of the samples (Kuhn et al., ICLR 2023; Farquhar et al.,
    Nature 2024).

    The papers ask a model whether two samples entail each other; here they mean the same when their
    answers are equal after normalisation, or when they share enough words.
    """

    same: Literal["answer", "words"] = Field(
        "answer",
        description="Samples mean the same by equal normalised answer, or by shared words (for "
        "longer texts)",
    )
    answer: AnswerForm = Field(
        "text", description="Where the answer is: the whole text, its last line or last number"
    )
    threshold: float = Field(
        0.7, ge=0, le=1, description="Word F1 from which two samples mean the same"
    )
    weights: Literal["count", "likelihood"] = Field(
        "count",
        description="Probability of a meaning by words: from its samples' number, or from their "
        "likelihoods",
    )


def _select(candidates: Candidates, parameters: SemanticEntropyParameters, count: int) -> Scores:
    """Score -sum_c p_c log p_c in nats over the meanings c."""
    return Scores(candidates.measure(_measure_meanings, parameters))


def _measure_meanings(features: pa.Table, parameters: SemanticEntropyParameters) -> Numbers:
    """Return the entropy over the meanings of each row's samples, shape (n,)."""
    if parameters.same == "answer":
        return entropy_of(answer_shares(features, parameters.answer))
    weighted = parameters.weights == "likelihood"
    return entropy_of(meaning_shares(features, parameters.threshold, weighted))


SEMANTIC_ENTROPY = with_noise_filter(
    Strategy(
        "semantic_entropy",
        needs=frozenset({"samples"}),
        parameters=SemanticEntropyParameters,
        distribution="block",
        select=_select,
        title="Different meanings among samples",
        why="The model was asked several times, and its answers to these examples mean different "
        "things, not just the same thing in other words.",
        score="Entropy over the meanings of the sampled answers in nats: 0 if all mean the same, "
        "larger the more meanings share the samples.",
    )
)


class SelfConsistencyParameters(NoiseFilterParameters):
    """Disagreement of sampled answers (Active-Prompt, Diao et al., ACL 2024, arXiv 2302.12246)."""

    answer: AnswerForm = Field(
        "text", description="Where the answer is: the whole text, its last line or last number"
    )
    measure: Literal["minority", "entropy", "balance"] = Field(
        "minority",
        description="minority: 1 - p of the most common answer; entropy of the answers; balance: "
        "p (1 - p), which puts examples the model never answers twice alike, as those it cannot "
        "learn, below those it sometimes does",
    )


def _select_self_consistency(
    candidates: Candidates, parameters: SelfConsistencyParameters, count: int
) -> Scores:
    """Score by the shares p of the different answers among the samples."""
    largest, entropy = candidates.measure(_measure_agreement, parameters).T
    measures = {
        "minority": 1 - largest,
        "entropy": entropy,
        "balance": largest * (1 - largest),
    }
    return Scores(measures[parameters.measure], {"agreement": largest})


def _measure_agreement(features: pa.Table, parameters: SelfConsistencyParameters) -> Numbers:
    """Return the share of the most common answer and the entropy of the answers, shape (n, 2)."""
    shares = answer_shares(features, parameters.answer)
    largest = np.array([row[0] if len(row) else np.nan for row in shares])
    return np.stack([largest, entropy_of(shares)], axis=1)


SELF_CONSISTENCY = with_noise_filter(
    Strategy(
        "self_consistency",
        needs=frozenset({"samples"}),
        parameters=SelfConsistencyParameters,
        distribution="block",
        select=_select_self_consistency,
        title="Disagreement among sampled answers",
        why="The model was asked several times and gave different answers to these examples.",
        score="How little the sampled answers agree, by the measure that the strategy is set to; "
        "larger was picked first.",
        parts={
            "agreement": "Share of the samples that gave the most common answer; 1 is full "
            "agreement.",
        },
    )
)


class CocoaParameters(NoiseFilterParameters):
    """Confidence and consistency together (CoCoA; Vashurin et al., arXiv 2502.04964).

    The paper compares texts with a cross-encoder; here by the n-grams or words they share.
    """

    uncertainty: Uncertainty = Field("nll", description="Uncertainty of the greedy output")
    similarity: Overlap = Field(
        "f1", description="How alike a sample is to the greedy output: words (f1) or n-grams"
    )


def _select_cocoa(candidates: Candidates, parameters: CocoaParameters, count: int) -> Scores:
    """Score u(y) (1/M) sum_m (1 - sim(y, y_m)) of the greedy output y and the samples y_m."""
    uncertainty = candidates.measure(UNCERTAINTIES[parameters.uncertainty])
    distance = candidates.measure(sample_distance, parameters.similarity)
    return Scores(uncertainty * distance, {"uncertainty": uncertainty, "inconsistency": distance})


COCOA = with_noise_filter(
    Strategy(
        "cocoa",
        needs=frozenset({"generations", "samples"}),
        parameters=CocoaParameters,
        distribution="block",
        select=_select_cocoa,
        title="Improbable and contradicted answers",
        why="The model found its own answers to these examples improbable, and its further "
        "samples say something else.",
        score="The uncertainty of the answer multiplied by how little the samples agree with it; "
        "larger was picked first.",
        parts={
            "uncertainty": "How unsure the model was of its own answer; larger is less sure.",
            "inconsistency": "Mean difference between the answer and the samples, from 0 (the "
            "same words) to 1 (no words in common).",
        },
    )
)


class EnspParameters(NoiseFilterParameters):
    """Expected normalised sequence probability over samples, or its variance (ENSP, ENSV; Wang et
    al., EMNLP 2019).
    """

    statistic: Literal["mean", "variance"] = Field(
        "mean",
        description="mean: least probable on average first (ENSP); variance: most uneven first "
        "(ENSV)",
    )


def _select_ensp(candidates: Candidates, parameters: EnspParameters, count: int) -> Scores:
    """Score 1 - mean_m p_m or var_m p_m, where p_m is the length-normalised probability of sample
    m.
    """
    mean, variance = candidates.measure(_measure_samples).T
    score = 1 - mean if parameters.statistic == "mean" else variance
    return Scores(score, {"mean_probability": mean, "variance": variance})


def _measure_samples(features: pa.Table) -> Numbers:
    """Return mean and variance of the probabilities of each row's samples, shape (n, 2)."""
    return np.stack(mean_sample_probability(features), axis=1)


ENSP = with_noise_filter(
    Strategy(
        "ensp",
        needs=frozenset({"samples"}),
        parameters=EnspParameters,
        distribution="block",
        select=_select_ensp,
        title="Improbable samples",
        why="The answers that the model drew for these examples are improbable to the model "
        "itself, or their probabilities vary widely if the strategy is set to the variance.",
        score="1 minus the mean probability of the sampled answers, or the variance of those "
        "probabilities; larger is less sure.",
        parts={
            "mean_probability": "Mean over the samples of their probability per token; 1 is fully "
            "sure.",
            "variance": "Variance of the samples' probabilities per token.",
        },
    )
)


class BleuvarParameters(NoiseFilterParameters):
    """BLEU variance of the samples (Xiao, Gomez and Gal, arXiv 2006.08344; BAS of Gidiotis and
    Tsoumakas, 2022).
    """

    noise_cutoff: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Examples from here on are noise, and left out; the authors of BAS take 0.96",
    )


def _select_bleuvar(candidates: Candidates, parameters: BleuvarParameters, count: int) -> Scores:
    """Score (1 / (M (M - 1))) sum_i sum_j (1 - BLEU(y_i, y_j))^2 over the M samples."""
    variance = candidates.measure(bleu_variance)
    cutoff = np.inf if parameters.noise_cutoff is None else parameters.noise_cutoff
    return Scores(np.where(variance >= cutoff, np.nan, variance), {"bleuvar": variance})


BLEUVAR = with_noise_filter(
    Strategy(
        "bleuvar",
        needs=frozenset({"samples"}),
        parameters=BleuvarParameters,
        distribution="block",
        select=_select_bleuvar,
        title="Different wording among samples",
        why="The model was asked several times, and its answers to these examples share few "
        "phrases with each other.",
        score="Mean squared difference between the sampled answers, measured with BLEU: 0 if all "
        "are the same, 1 if they share nothing.",
        parts={
            "bleuvar": "The same number as the score: the mean squared difference between the "
            "samples.",
        },
        titles={
            "bleuvar": "disagreement of samples",
        },
    )
)
