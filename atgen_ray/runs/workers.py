"""Work of a run that a controller has done elsewhere, by processes that Ray starts.

All of it goes through `Workers`. Whoever drives a controller without Ray, as a simulation does,
gives it functions with the same arguments and results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atgen_ray.data import Split, SplitReader, build_split, open_split
from atgen_ray.embedding import embed_pool
from atgen_ray.embedding.pool import embed_apart
from atgen_ray.engines.adapter_check import check_adapter
from atgen_ray.engines.base import Engine
from atgen_ray.engines.choice import count_gpus_of, explain_choice
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.registry import build_engine
from atgen_ray.evaluation.aggregation import Scorer
from atgen_ray.evaluation.ray_scoring import score_on_ray
from atgen_ray.ray_runtime.nodes import survey
from atgen_ray.runs.estimate import estimate_run
from atgen_ray.training import TrainingResult, train_adapter


@dataclass(frozen=True)
class Workers:
    """What Ray's workers do for a controller, and what it reads of models itself; each field has
    the signature of its default.
    """

    survey: Callable[..., dict[str, dict[str, str]]] = survey
    count_gpus_of: Callable[..., float] = count_gpus_of
    open_split: Callable[..., SplitReader] = open_split
    build_split: Callable[..., Split] = build_split
    estimate_run: Callable[..., dict[str, Any]] = estimate_run
    embed_pool: Callable[..., None] = embed_pool
    embed_apart: Callable[..., Any] = embed_apart
    explain_choice: Callable[..., dict[str, Any]] = explain_choice
    build_engine: Callable[..., Engine] = build_engine
    generate_features: Callable[..., Any] = generate_features
    check_adapter: Callable[..., Any] = check_adapter
    train_adapter: Callable[..., TrainingResult] = train_adapter
    score: Scorer = score_on_ray


RAY_WORKERS = Workers()
