"""The `huds` strategy picks uncertain examples that are unlike others of the same uncertainty."""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.scoring import normalized_nll
from atgen_ray.selection.kernels.clusters import cluster, distance_to_centers
from atgen_ray.selection.kernels.draws import derive_seed
from atgen_ray.selection.kernels.normalization import Scale, Stratification, normalize, stratify
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Scores, Strategy
from atgen_ray.selection.vectors import rows_finite


class HudsParameters(NoiseFilterParameters):
    """Hybrid uncertainty and diversity sampling (Azeemi, Qazi and Raza, COLING 2025, arXiv
    2403.09259).
    """

    diversity_weight: float = Field(
        0.5, ge=0, le=1, description="Weight of diversity; uncertainty has the rest"
    )
    strata: PositiveInt = Field(
        10, description="Strata of uncertainty; fewer where one would hold under two examples"
    )
    stratify: Stratification = Field(
        "equal_size",
        description="Strata with as many examples each, or equally wide ones as in the paper",
    )
    normalize: Scale = Field(
        "rank", description="Common scale of uncertainty and diversity; none adds them as they are"
    )
    clusters: PositiveInt = Field(
        1, description="Clusters in a stratum, by k-means; 1: distance to its centroid"
    )


def _select(candidates: Candidates, parameters: HudsParameters, count: int) -> Scores:
    """Score w d(x) + (1 - w) u(x), both on the scale `normalize`.

    u is the length-normalised negative log-likelihood of the greedy output; d is the cosine
    distance to the centre of the example's cluster within its stratum of u.
    """
    nll = candidates.measure(normalized_nll)
    embeddings, _ = candidates.vectors()
    usable = np.isfinite(nll) & rows_finite(embeddings)
    parts = {
        name: np.full(len(nll), np.nan)
        for name in ("nll", "stratum", "distance", "uncertainty", "diversity")
    }
    if usable.any():
        # A stratum of one example would have the distance 0 for it.
        uncertainty = nll[usable]
        strata = stratify(
            uncertainty, max(1, min(parameters.strata, len(uncertainty) // 2)), parameters.stratify
        )
        seed = derive_seed("huds", candidates.seed, candidates.round)
        distance = _distance_in_strata(embeddings[usable], strata, parameters.clusters, seed)
        parts["nll"][usable] = uncertainty
        parts["stratum"][usable] = strata
        parts["distance"][usable] = distance
        parts["uncertainty"][usable] = normalize(uncertainty, parameters.normalize)
        parts["diversity"][usable] = normalize(distance, parameters.normalize)
    weight = parameters.diversity_weight
    return Scores(weight * parts["diversity"] + (1 - weight) * parts["uncertainty"], parts)


def _distance_in_strata(vectors: Vectors, strata: Integers, clusters: int, seed: int) -> Numbers:
    """Return the cosine distance of each vector to the centre of its cluster in its stratum."""
    distance = np.empty(len(vectors))
    for stratum in np.unique(strata):
        members = strata == stratum
        distance[members] = distance_to_centers(
            vectors[members], cluster(vectors[members], clusters, seed)
        )
    return distance


HUDS = with_noise_filter(
    Strategy(
        "huds",
        needs=frozenset({"embeddings", "generations"}),
        parameters=HudsParameters,
        distribution="statistics",
        select=_select,
        title="Hybrid uncertainty and diversity",
        why="These examples are hard for the model and unlike others that are just as hard: a "
        "weighted sum of how uncertain the model is and how far the example lies from its "
        "neighbours in difficulty.",
        score="Weighted sum of uncertainty and diversity; larger was picked first.",
        parts={
            "uncertainty": "How unsure the model was of its own answer: by default a rank from 0 "
            "to 1, the least sure.",
            "diversity": "How unlike others of like uncertainty it is: by default a rank from 0 "
            "to 1, the most unlike.",
            "nll": "Negative log-likelihood of the model's own answer for each token, in nats; "
            "larger is less sure.",
            "stratum": "Band of uncertainty that the example fell into, from 0 for the surest.",
            "distance": "Cosine distance to the centre of its band; larger is further from the "
            "typical example.",
        },
        titles={
            "nll": "negative log-likelihood",
            "stratum": "uncertainty band",
            "distance": "distance to band centre",
        },
    )
)
