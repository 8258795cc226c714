"""Active testing: the score of a model on a pool without answers, from as few labels as possible.

A sample is drawn in two phases (Neyman 1938; Särndal, Swensson and Wretman 1992, chapter 9), of
which the first is spread evenly over groups of the pool, and the second is where the first found
that scores vary. Every example has a known probability to be drawn, and the estimate weighs it by
that: Horvitz and Thompson 1952; for sampling that learns as it goes, LURE: Farquhar, Gal and
Rainforth 2021 (arXiv 2101.11665), Kossen et al. 2021 (arXiv 2103.05331).
"""

from atgen_ray.evaluation.audit.design import (
    SAMPLE_SCHEMA,
    AuditSample,
    count_first,
    draw_first,
    draw_second,
)
from atgen_ray.evaluation.audit.estimate import AuditScore, estimate_mean
from atgen_ray.evaluation.audit.scores import (
    compare_audited,
    describe_models,
    score_audit,
    to_array,
)

__all__ = [
    "SAMPLE_SCHEMA",
    "AuditSample",
    "AuditScore",
    "compare_audited",
    "count_first",
    "describe_models",
    "draw_first",
    "draw_second",
    "estimate_mean",
    "score_audit",
    "to_array",
]
