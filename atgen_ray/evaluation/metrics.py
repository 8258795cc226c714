"""The names of the metrics. Each compares one prediction with its references: a number in [0, 1], larger is better."""

from collections.abc import Callable, Sequence
from functools import partial

from atgen_ray.evaluation.answers import exact_match, token_f1
from atgen_ray.evaluation.rouge import rouge

# (prediction, references) -> best value over the references, of which there is at least one
Metric = Callable[[str, Sequence[str]], float]

METRICS: dict[str, Metric] = {
    "rouge1": partial(rouge, "rouge1"),
    "rouge2": partial(rouge, "rouge2"),
    "rougeL": partial(rouge, "rougeL"),
    "exact_match": exact_match,
    "token_f1": token_f1,
}
