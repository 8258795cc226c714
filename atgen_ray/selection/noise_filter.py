"""Noise filter before uncertainty strategies: it leaves out candidates that are uncertain because
they are noise.

The filter is the parameter `guard` of a strategy and is off by default. Candidates that it leaves
out can still fill up a batch at random, like those that the strategy cannot rank.
"""

import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from atgen_ray.scoring import UNCERTAINTIES, Uncertainty, bleu_variance
from atgen_ray.selection.strategy import (
    Candidates,
    Distribution,
    Need,
    Needs,
    Parameters,
    Picks,
    Scores,
    Strategy,
)


class NoiseFilter(BaseModel):
    """Candidates that the strategy never sees; they can only fill up a batch at random, like those
    that it cannot rank.

    Uncertain examples are often noise (Tsvigun et al., Findings of EMNLP 2022); the cut-off on
    disagreement is that of Gidiotis and Tsoumakas and of DUAL (arXiv 2503.00867), 0.96. Off by
    default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_share: float = Field(
        0.0, ge=0, lt=1, description="Share of the most uncertain candidates to leave out"
    )
    uncertainty: Uncertainty = Field("nll", description="Uncertainty that `top_share` goes by")
    disagreement: float | None = Field(
        None, ge=0, le=1, description="Leave out candidates whose BLEUVar is at least this, as 0.96"
    )
    min_words: NonNegativeInt = Field(0, description="Leave out prompts of fewer words")
    max_symbols: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Leave out prompts with a larger share of symbols than this, spaces not "
        "counted",
    )

    def needs(self) -> Needs:
        """Return what the filter itself reads."""
        used: dict[Need, bool] = {
            "generations": self.top_share > 0,
            "samples": self.disagreement is not None,
            "texts": self.min_words > 0 or self.max_symbols < 1,
        }
        return frozenset(need for need, is_used in used.items() if is_used)

    def admit(self, candidates: Candidates) -> npt.NDArray[np.bool_]:
        """Return which candidates the strategy may see, shape (n,).

        A candidate without an uncertainty passes: there is no evidence that it is noise.
        """
        admitted = np.ones(len(candidates.ids), dtype=bool)
        if self.min_words or self.max_symbols < 1:
            texts, _ = candidates.prompts()
            admitted &= [len(text.split()) >= self.min_words for text in texts]
            admitted &= [_share_symbols(text) <= self.max_symbols for text in texts]
        if self.disagreement is not None:
            admitted &= ~(candidates.measure(bleu_variance) >= self.disagreement)
        if self.top_share:
            values = candidates.measure(UNCERTAINTIES[self.uncertainty])
            values[~admitted] = np.nan
            known = np.flatnonzero(~np.isnan(values))
            most = np.argsort(-values[known], kind="stable")[: int(self.top_share * len(known))]
            admitted[known[most]] = False
        return admitted


class NoiseFilterParameters(Parameters):
    """Base of the parameters of a strategy with a noise filter."""

    guard: NoiseFilter = Field(
        NoiseFilter(), description="Noise guard: what to leave out before the strategy looks"
    )


def with_noise_filter(strategy: Strategy) -> Strategy:
    """Return `strategy` restricted to the candidates that the filter in its parameters admits.

    The parameters of `strategy` must be `NoiseFilterParameters`.
    """

    def select_admitted(candidates: Candidates, settings: Any, count: int) -> Scores | Picks:
        admitted = settings.guard.admit(candidates)
        # What only the filter needs is hidden from the strategy, which did not declare it.
        seen = candidates.restrict(strategy.needs_with(settings))
        if admitted.all():
            return strategy.select(seen, settings, count)
        rows = np.flatnonzero(admitted)
        if not len(rows):
            return Picks((), np.empty(0))
        outcome = strategy.select(seen.take(rows), settings, min(count, len(rows)))
        return outcome if isinstance(outcome, Picks) else _spread(outcome, rows, len(admitted))

    def distribute(settings: Any) -> Distribution:
        usual = strategy.distribution_with(settings)
        # The most uncertain share is a share of the whole pool.
        return "statistics" if usual == "block" and settings.guard.top_share else usual

    return replace(
        strategy,
        select=select_admitted,
        resolve=lambda settings: strategy.needs_with(settings) | settings.guard.needs(),
        distribution=distribute,
    )


def _spread(outcome: Scores, rows: npt.NDArray[np.int64], size: int) -> Scores:
    """Return scores of all `size` candidates: those of `outcome` at `rows`, NaN elsewhere."""

    def place(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        placed = np.full(size, np.nan)
        placed[rows] = values
        return placed

    return Scores(
        place(outcome.scores), {name: place(values) for name, values in outcome.parts.items()}
    )


def _share_symbols(text: str) -> float:
    shown = [character for character in text if not character.isspace()]
    return (
        sum(unicodedata.category(character)[0] not in "LMN" for character in shown) / len(shown)
        if shown
        else 1.0
    )
