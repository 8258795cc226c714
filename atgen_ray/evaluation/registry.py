"""Metrics by name, and the metrics that are computed by default.

A metric maps cases to one number each. Unless its file says otherwise, values lie in [0, 1], larger
is better, and the best reference counts (NaN without references). sacreBLEU and chrF keep their
published scale from 0 to 100.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from atgen_ray.core.arrays import Numbers
from atgen_ray.core.plugins import Registry, expect_type
from atgen_ray.evaluation.metric import Case, Resources
from atgen_ray.evaluation.metrics.alignscore import score_alignment
from atgen_ray.evaluation.metrics.bartscore import score_likelihood
from atgen_ray.evaluation.metrics.bertscore import score_similarity
from atgen_ray.evaluation.metrics.bleu import BLEU, CHRF
from atgen_ray.evaluation.metrics.exact_match import (
    exact_match,
    squad_exact_match,
    squad_f1,
    token_f1,
)
from atgen_ray.evaluation.metrics.lengths import (
    count_words,
    length_ratio,
    novel_ngrams,
    repetition,
    source_length_ratio,
)
from atgen_ray.evaluation.metrics.llm_judge import (
    ONE_JUDGE,
    TWO_JUDGES,
    judge_answers,
    spread_grades,
)
from atgen_ray.evaluation.metrics.mathematics import math_equal
from atgen_ray.evaluation.metrics.multiple_choice import multiple_choice
from atgen_ray.evaluation.metrics.rouge import rouge
from atgen_ray.evaluation.metrics.source_support import score_support
from atgen_ray.evaluation.metrics.tool_calls import tool_calls, whole_calls
from atgen_ray.text.words import mostly_unspaced

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Corpus:
    """A corpus score: a function of the summed counts of the examples, no mean of their values."""

    counts: Callable[[Sequence[Case]], Numbers]  # n cases -> (n, k)
    combine: Callable[[Numbers], float]  # sum over cases, (k,) -> value


@dataclass(frozen=True)
class Metric:
    """A metric of answers.

    `score` returns NaN for a case that it cannot judge. `better` says whether higher or lower
    values are better; "neither" is for metrics that only describe. `heavy` metrics load a model.
    `judges` is how many language models must be there to grade. `bounds` are the least and the
    largest value that there can be, maybe infinite; None where nothing is known. The intervals of
    an audit rest on them. A metric of `likelihood` reads what the model makes of the references,
    and no answer.
    """

    score: Callable[[Sequence[Case], Resources], Sequence[float]]
    better: Better = "higher"
    corpus: Corpus | None = None
    heavy: bool = False
    judges: int = 0
    bounds: tuple[float, float] | None = (0.0, 1.0)
    likelihood: bool = False

    def __call__(self, prediction: str, references: Sequence[str], source: str = "") -> float:
        """Return the value of one answer."""
        return float(self.score([Case(prediction, references, source)], Resources())[0])


def _each(
    judge: Callable[[str, Sequence[str]], float],
    better: Better = "higher",
    corpus: Corpus | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Metric:
    """Return a metric of one answer and its references at a time."""
    return Metric(
        lambda cases, _: [judge(case.prediction, case.references) for case in cases],
        better,
        corpus,
        bounds=bounds,
    )


def _sourced(
    judge: Callable[[str, str], float],
    better: Better,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Metric:
    """Return a metric of one answer and its source at a time."""
    return Metric(
        lambda cases, _: [judge(case.prediction, case.source) for case in cases],
        better,
        bounds=bounds,
    )


PERCENT = (0.0, 100.0)
POSITIVE = (0.0, math.inf)


_BUILTIN: dict[str, Metric] = {
    "rouge1": _each(partial(rouge, "rouge1")),
    "rouge2": _each(partial(rouge, "rouge2")),
    "rougeL": _each(partial(rouge, "rougeL")),
    "rougeLsum": _each(partial(rouge, "rougeLsum")),
    "exact_match": _each(exact_match),
    "token_f1": _each(token_f1),
    "squad_exact_match": _each(squad_exact_match),
    "squad_f1": _each(squad_f1),
    "math_equal": Metric(lambda cases, _: math_equal(cases)),
    "multiple_choice": _each(multiple_choice),
    "tool_calls": _each(tool_calls),
    "whole_calls": _each(whole_calls),
    "sacrebleu": _each(BLEU.score, corpus=Corpus(BLEU.counts, BLEU.combine), bounds=PERCENT),
    "sentence_bleu": _each(BLEU.score, bounds=PERCENT),
    "chrf": _each(CHRF.score, corpus=Corpus(CHRF.counts, CHRF.combine), bounds=PERCENT),
    "words": _each(lambda prediction, _: count_words(prediction), "neither", bounds=POSITIVE),
    "length_ratio": _each(length_ratio, "neither", bounds=POSITIVE),
    "source_length_ratio": _sourced(source_length_ratio, "neither", POSITIVE),
    "novel_unigrams": _sourced(partial(novel_ngrams, 1), "neither"),
    "novel_bigrams": _sourced(partial(novel_ngrams, 2), "neither"),
    "novel_trigrams": _sourced(partial(novel_ngrams, 3), "neither"),
    # Of the likeliest reference, its end of turn included: the loss of training, and continuous.
    "nll": Metric(
        lambda cases, _: [min(case.nats, default=math.nan) for case in cases],
        "lower",
        bounds=POSITIVE,
        likelihood=True,
    ),
    "repetition": _each(lambda prediction, _: repetition(prediction), "lower"),
    "source_support": Metric(lambda cases, _: score_support(cases)),
    "bertscore": Metric(score_similarity, heavy=True, bounds=None),
    "bartscore": Metric(partial(score_likelihood, "source"), heavy=True, bounds=None),
    "bartscore_reference": Metric(partial(score_likelihood, "reference"), heavy=True, bounds=None),
    "alignscore": Metric(score_alignment, heavy=True),
    "llm_judge": Metric(judge_answers, judges=1),
    "judge_spread": Metric(spread_grades, "neither", judges=2, bounds=None),
}
METRICS: Registry[Metric] = Registry("atgen_ray.metrics", "metric", _BUILTIN, expect_type(Metric))


def find_lack(name: str, judges: int) -> str | None:
    """Return what is expected where a metric needs more judges than there are."""
    needed = METRICS[name].judges
    if judges >= needed:
        return None
    return ONE_JUDGE if needed == 1 else TWO_JUDGES


SPACED = ("rouge1", "rouge2", "rougeL", "exact_match", "token_f1")
# Without spaces a word of ROUGE and F1 is a single character; chrF compares runs of characters and
# so says more.
UNSPACED = ("chrf", "rougeL", "exact_match", "token_f1")


def choose_metrics(
    asked: Sequence[str] | None, steering: Iterable[str], references: Iterable[str]
) -> list[str]:
    """Return `asked`, or the defaults for the script of `references` with the metrics that steer
    stopping.
    """
    if asked is not None:
        return list(asked)
    defaults = UNSPACED if mostly_unspaced(references) else SPACED
    return list(dict.fromkeys([*defaults, *sorted(steering)]))
