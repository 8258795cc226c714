"""The strategy `few_words`: prompts of few different words."""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.selection import Candidates, Parameters, Scores, Strategy


class FewWordsParameters(Parameters):
    """Prompts of few different words."""

    shortest: PositiveInt = Field(3, description="Shorter words are not counted, in characters")


def select(candidates: Candidates, parameters: FewWordsParameters, count: int) -> Scores:
    """Score: minus the number of different words."""
    texts, _ = candidates.prompts()
    found = [{word for word in text.split() if len(word) >= parameters.shortest} for text in texts]
    words = np.array([len(each) for each in found], dtype=np.float64)
    return Scores(-words, {"words": words})


FEW_WORDS = Strategy(
    "few_words",
    needs=frozenset({"texts"}),
    parameters=FewWordsParameters,
    select=select,
    title="Few different words",
    why="The prompts of these examples hold few different words, so they are quick to label.",
    score="Minus the number of different words; larger was picked first.",
    parts={"words": "Number of different words in the prompt."},
)
