"""Baselines: `random` picks at random, `length` picks the longest or the shortest prompts."""

from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from atgen_ray.selection.kernels.draws import draw_uniform
from atgen_ray.selection.strategy import Candidates, Parameters, Scores, Strategy


class RandomParameters(Parameters):
    """Random sampling, once or several times from one seed."""

    draw: NonNegativeInt = Field(
        0, description="Which random sample, of those that the run's seed gives"
    )


def _select(candidates: Candidates, parameters: RandomParameters, count: int) -> Scores:
    purpose = f"random {parameters.draw}" if parameters.draw else "random"
    return Scores(draw_uniform(candidates.ids, purpose, candidates.seed, candidates.round))


RANDOM = Strategy(
    "random",
    needs=frozenset(),
    parameters=RandomParameters,
    distribution="block",
    select=_select,
    title="Random sampling",
    why="Every unlabelled example had the same chance of being picked. Random sampling is the "
    "baseline that other strategies must beat.",
    score="The example's random draw between 0 and 1; the largest draws were picked.",
)


class LengthParameters(Parameters):
    """Longest or shortest prompts: the baseline that shows whether a strategy does more than prefer
    long ones.
    """

    order: Literal["longest", "shortest"] = Field("longest", description="Which prompts come first")
    unit: Literal["words", "characters"] = Field("words", description="What length is counted in")


def _select_length(candidates: Candidates, parameters: LengthParameters, count: int) -> Scores:
    texts, _ = candidates.prompts()
    lengths = np.array(
        [len(text.split() if parameters.unit == "words" else text) for text in texts],
        dtype=np.float64,
    )
    return Scores(lengths if parameters.order == "longest" else -lengths, {"length": lengths})


LENGTH = Strategy(
    "length",
    needs=frozenset({"texts"}),
    parameters=LengthParameters,
    distribution="block",
    select=_select_length,
    title="Prompt length",
    why="These examples have the longest prompts, or the shortest if the strategy is set so. "
    "Length is a baseline: it shows whether another strategy does more than prefer long prompts.",
    score="Length of the prompt; negative if the shortest prompts come first.",
    parts={
        "length": "Length of the prompt, in words or in characters as the strategy is set.",
    },
)
