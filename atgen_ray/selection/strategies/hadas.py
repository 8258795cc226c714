"""The `hadas` strategy picks examples whose outputs their source does not support, in ways that the
labelled examples do not show yet.
"""

from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from atgen_ray.core.arrays import Numbers
from atgen_ray.core.errors import nearest
from atgen_ray.scoring import FAITHFULNESS
from atgen_ray.selection.kernels.divergence import mean_divergence
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Picks, Scores, Strategy, pick_ids


class HadasParameters(NoiseFilterParameters):
    """Hallucination diversity-aware sampling (Xia et al., NAACL 2024, arXiv 2404.01588).

    Three scorers judge how faithful an output is to its source in semantic frames, discourse and
    verifiable content. The paper's are trained models; the default, called source support, compares
    the texts and needs none.
    """

    semantic_frames: str = Field("source_support_entities", description="Scorer of semantic frames")
    discourse: str = Field("source_support_sentences", description="Scorer of discourse")
    content: str = Field("source_support_words", description="Scorer of verifiable content")
    semantic_frames_weight: NonNegativeFloat = Field(0.33, description="Weight of semantic frames")
    discourse_weight: NonNegativeFloat = Field(0.33, description="Weight of discourse")
    content_weight: NonNegativeFloat = Field(0.33, description="Weight of verifiable content")
    first: Literal["hallucinated", "faithful"] = Field(
        "hallucinated", description="Which outputs come first; faithful is what ATGen's code does"
    )
    diversity_weight: float = Field(
        0.33, ge=0, le=1, description="Weight of diversity; the scorers have the rest"
    )
    batch_diversity: bool = Field(
        False,
        description="Count the picks before as labelled, so that a batch is diverse in itself",
    )
    memory_mb: PositiveInt = Field(256, description="Largest block of divergences in MB")

    @field_validator("semantic_frames", "discourse", "content")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in FAITHFULNESS:
            raise ValueError(f"'{name}' is not a faithfulness scorer{nearest(name, FAITHFULNESS)}")
        return name


def _select(candidates: Candidates, parameters: HadasParameters, count: int) -> Scores | Picks:
    """Score w D(x) + (1 - w) h(x).

    h is the weighted sum of the three scores, each 1 - faithfulness when hallucinated outputs come
    first. D is the mean Jensen-Shannon divergence in nats between the three scores, normalised to
    the sum 1, of the candidate's output and of the labelled examples' answers; 0 when nothing is
    labelled.
    """
    sources, labeled_sources = candidates.prompts()
    table = candidates.outputs("text", "error")
    outputs = table["text"].to_pylist()
    # A failed row has no output; it is judged as an empty one and then left out.
    failed = np.array(table["error"].is_valid())
    scores = _judge(sources, ["" if output is None else output for output in outputs], parameters)
    scores[failed] = np.nan
    usable = ~np.isnan(scores).any(axis=1)
    known = _judge(labeled_sources, candidates.answers(), parameters)
    known = known[~np.isnan(known).any(axis=1)]
    weights = np.array(
        [parameters.semantic_frames_weight, parameters.discourse_weight, parameters.content_weight],
        dtype=np.float64,
    )
    level = scores @ weights
    diversity = np.where(usable, 0.0, np.nan)
    if len(known) and usable.any():
        diversity[usable] = mean_divergence(
            _share(scores[usable]), _share(known), parameters.memory_mb
        )
    if parameters.batch_diversity:
        return _pick_apart(
            candidates,
            scores,
            level,
            diversity,
            len(known),
            parameters,
            min(count, int(usable.sum())),
        )
    parts = dict(zip(("semantic_frames", "discourse", "content"), scores.T, strict=True))
    weight = parameters.diversity_weight
    return Scores(
        weight * diversity + (1 - weight) * level, parts | {"level": level, "diversity": diversity}
    )


def _judge(
    sources: tuple[str, ...], outputs: "list[str] | tuple[str, ...]", parameters: HadasParameters
) -> Numbers:
    """Return the three scores of each output, (n, 3), in the direction of `parameters.first`."""
    names = (parameters.semantic_frames, parameters.discourse, parameters.content)
    scores = np.stack([FAITHFULNESS[name](sources, outputs) for name in names], axis=1)
    return scores if parameters.first == "faithful" else 1 - scores


def _share(scores: Numbers) -> Numbers:
    """Return the rows normalised to the sum 1; equal shares where all are 0."""
    totals = scores.sum(axis=1, keepdims=True)
    return np.asarray(
        np.where(totals > 0, scores, 1.0) / np.where(totals > 0, totals, scores.shape[1])
    )


def _pick_apart(
    candidates: Candidates,
    scores: Numbers,
    level: Numbers,
    diversity: Numbers,
    known: int,
    parameters: HadasParameters,
    count: int,
) -> Picks:
    """Pick greedily; the divergence of each pick from every candidate joins the mean D."""
    shares = _share(scores)
    totals = diversity * known
    weight = parameters.diversity_weight
    rows: list[int] = []
    found: list[tuple[float, float, float]] = []
    for _ in range(count):
        mean = totals / max(1, known + len(rows))
        values = weight * mean + (1 - weight) * level
        values[rows] = np.nan
        best = int(np.nanargmax(values))
        found.append((values[best], level[best], mean[best]))
        rows.append(best)
        totals += mean_divergence(shares, shares[best][None], parameters.memory_mb)
    score, levels, means = np.array(found).reshape(-1, 3).T
    return Picks(pick_ids(candidates.ids, rows), score, {"level": levels, "diversity": means})


HADAS = with_noise_filter(
    Strategy(
        "hadas",
        needs=frozenset({"generations", "texts", "labels"}),
        parameters=HadasParameters,
        select=_select,
        title="Unsupported answers",
        why="The model's answers to these examples say things that the prompt does not support, "
        "and they fail in other ways than the labelled examples do. If the strategy is set to "
        "faithful, well supported answers come first.",
        score="Weighted sum of the lack of support and of diversity; larger was picked first.",
        parts={
            "semantic_frames": "Names, numbers and relations of the answer: how little of them "
            "the prompt supports, from 0 to 1 (how much, if faithful answers come first).",
            "discourse": "The same for the sentences of the answer as wholes.",
            "content": "The same for the single words of the answer.",
            "level": "Weighted sum of the three judgements above.",
            "diversity": "Mean divergence in nats between these judgements and those of the "
            "labelled examples; 0 if nothing is labelled.",
        },
        titles={
            "semantic_frames": "facts not supported",
            "discourse": "sentences not supported",
            "content": "words not supported",
            "level": "lack of support",
        },
    )
)
