"""The `self_consistency` strategy: examples to which the samples give different answers."""

from typing import Literal

import numpy as np
from pydantic import Field

from atgen_ray.scoring.answers import AnswerForm
from atgen_ray.scoring.disagreement import answer_shares, entropy_of
from atgen_ray.selection.contract import Candidates, Scores
from atgen_ray.selection.guard import GuardedParameters, guarded


class SelfConsistencyParameters(GuardedParameters):
    """Disagreement of sampled answers (Active-Prompt, Diao et al., ACL 2024, arXiv 2302.12246)."""

    answer: AnswerForm = Field("text", description="Where the answer is: the whole text, its last line or last number")
    measure: Literal["minority", "entropy", "balance"] = Field(
        "minority",
        description="minority: 1 - p of the most common answer; entropy of the answers; balance: p (1 - p), which puts "
        "examples the model never answers twice alike, as those it cannot learn, below those it sometimes does",
    )


def _select(candidates: Candidates, parameters: SelfConsistencyParameters, count: int) -> Scores:
    """Score by the shares p of the different answers among the samples."""
    shares = answer_shares(candidates.outputs(), parameters.answer)
    largest = np.array([row[0] if len(row) else np.nan for row in shares])
    measures = {"minority": 1 - largest, "entropy": entropy_of(shares), "balance": largest * (1 - largest)}
    return Scores(measures[parameters.measure], {"agreement": largest})


SELF_CONSISTENCY = guarded("self_consistency", frozenset({"samples"}), SelfConsistencyParameters, _select)
