"""Billing of requests: what each may cost, and what becomes of one whose outcome is unknown."""

from collections.abc import Callable
from dataclasses import dataclass

from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.request import AnnotationRequest


@dataclass(frozen=True)
class BillingPolicy:
    """Costs of requests, and the configuration's choices for ambiguous outcomes and for a stop."""

    worst: Callable[[AnnotationRequest], int]  # billionths of a dollar
    cost: Callable[..., int]  # of prompt, output, cached and written tokens
    resend: bool  # send a request again whose outcome is ambiguous
    cancel: bool  # cancel batch jobs when the run is stopped
    longest: int | None = None  # output tokens that a request asks for at most; None: unlimited
    bounds: CostBounds | None = None  # learns from answers; None: every answer costs the same
