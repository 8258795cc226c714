"""The `ensemble` strategy: several strategies vote, with weights that may change by round."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, field_validator

from atgen_ray.core.arrays import Numbers
from atgen_ray.core.errors import nearest
from atgen_ray.selection.kernels.normalization import normalize, rank
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategies import MEMBERS
from atgen_ray.selection.strategy import Candidates, Needs, Parameters, Scores, Strategy


class Member(BaseModel):
    """Settings of one strategy that votes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: tuple[NonNegativeFloat, ...] = Field(
        (1.0,), min_length=1, description="By round; the last one stays"
    )
    parameters: dict[str, Any] = Field({}, description="Parameters of the strategy")

    @field_validator("weight", mode="before")
    @classmethod
    def _several(cls, weight: Any) -> Any:
        return [weight] if isinstance(weight, int | float) else weight


class EnsembleParameters(NoiseFilterParameters):
    """Rank-normalised ensemble: Borda count, or reciprocal rank fusion (Cormack, Clarke and
    Büttcher, SIGIR 2009).
    """

    members: dict[str, Member] = Field(
        {
            "idds": Member(weight=(1.0, 0.75, 0.5, 0.25)),
            "nsp": Member(weight=(0.0, 0.25, 0.5, 0.75)),
        },
        min_length=1,
        description="Strategies by name, each with `weight`, a number or a list by round, and "
        "`parameters`",
    )
    combine: Literal["rank", "reciprocal"] = Field(
        "rank",
        description="rank: mean of normalised ranks; reciprocal: of 1 / (60 + rank), where the "
        "first ones count",
    )
    depth: PositiveInt = Field(
        5,
        description="Members that pick one by one are asked for so many times the batch; the rest "
        "is as good as last",
    )

    @field_validator("members")
    @classmethod
    def _known(cls, members: dict[str, Member]) -> dict[str, Member]:
        for name, member in members.items():
            if name not in MEMBERS:
                raise ValueError(
                    f"'{name}' is not a strategy that can vote{nearest(name, MEMBERS)}"
                )
            _settings(name, member)
        return members


def _select(candidates: Candidates, parameters: EnsembleParameters, count: int) -> Scores:
    """Score: the weighted mean over the members of the normalised rank, from 0 (last) to 1 (first).

    Members with the weight 0 in this round do not vote. An example that no member can rank has no
    score.
    """
    index = max(candidates.round, 1) - 1  # a selection outside a run has the round 0
    weights = {
        name: member.weight[min(index, len(member.weight) - 1)]
        for name, member in parameters.members.items()
    }
    total = sum(weights.values()) or 1.0
    score = np.zeros(len(candidates.ids))
    ranked = np.zeros(len(candidates.ids), dtype=bool)
    parts = {}
    for name, weight in weights.items():
        if weight:
            values = _vote(
                name,
                parameters.members[name],
                candidates,
                min(count * parameters.depth, len(ranked)),
            )
            ranked |= ~np.isnan(values)
            parts[name] = _normalize(values, parameters.combine)
            score += weight / total * parts[name]
    return Scores(np.where(ranked, score, np.nan), parts)


def _vote(name: str, member: Member, candidates: Candidates, count: int) -> Numbers:
    """Return a number for every candidate: the larger, the sooner the member would pick it; NaN for
    a candidate that it does not rank.
    """
    settings = _settings(name, member)
    outcome = MEMBERS[name].select(
        candidates.restrict(MEMBERS[name].needs_with(settings)), settings, count
    )
    if isinstance(outcome, Scores):
        return outcome.scores.astype(np.float64)
    rows = {id: row for row, id in enumerate(candidates.ids)}
    values = np.full(len(rows), np.nan)
    values[[rows[id] for id in outcome.ids]] = np.arange(len(outcome.ids), 0, -1)
    return values


def _normalize(values: Numbers, combine: str) -> Numbers:
    """Return the votes on a scale from 0 to 1; candidates without a vote share the last rank."""
    known = values[~np.isnan(values)]
    filled = np.where(np.isnan(values), known.min(initial=0.0) - 1, values)
    if combine == "rank":
        return normalize(filled, "rank")
    return np.asarray(1 / (60 + rank(-filled)))


def _settings(name: str, member: Member) -> Parameters:
    return MEMBERS[name].parameters.model_validate(member.parameters)


def _needs(parameters: EnsembleParameters) -> Needs:
    members = parameters.members.items()
    return frozenset().union(
        *(MEMBERS[name].needs_with(_settings(name, member)) for name, member in members)
    )


ENSEMBLE = with_noise_filter(
    Strategy(
        "ensemble",
        needs=frozenset({"embeddings", "generations"}),
        parameters=EnsembleParameters,
        distribution="statistics",
        select=_select,
        resolve=_needs,
        title="Vote of several strategies",
        why="Several strategies ranked the examples, and their ranks were averaged with the "
        "weights of the round. These examples are the ones that the strategies together place "
        "first.",
        score="Weighted mean of the members' votes; larger was picked first.",
        parts={
            "*": "Vote of the strategy of that name: its rank of the example, from 0 (last) to 1 "
            "(first), or 1 / (60 + place) if votes are combined by reciprocal ranks.",
        },
    )
)
