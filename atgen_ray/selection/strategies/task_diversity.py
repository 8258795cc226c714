"""The `task_diversity` strategy picks more examples from the tasks in which the model is less
confident.
"""

import numpy as np
from pydantic import Field, PositiveInt

from atgen_ray.core.arrays import Integers
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.scoring import normalized_nll
from atgen_ray.selection.kernels.clusters import cluster, rank_in_groups
from atgen_ray.selection.kernels.draws import derive_seed, draw_uniform
from atgen_ray.selection.noise_filter import NoiseFilterParameters, with_noise_filter
from atgen_ray.selection.strategy import Candidates, Needs, Picks, Scores, Strategy
from atgen_ray.selection.vectors import keep_known, quantised_vectors


class TaskDiversityParameters(NoiseFilterParameters):
    """Inverse-confidence quotas over tasks (Arabelly et al., arXiv 2507.21482); tasks are clusters
    of the prompts, or the values of a column.
    """

    tasks: PositiveInt = Field(20, description="Clusters of the pool that stand for tasks")
    column: str | None = Field(
        None,
        min_length=1,
        description="Column of the pool that names the task of a row, in place of clusters; rows "
        "without a value are a task of their own",
    )


def _select(
    candidates: Candidates, parameters: TaskDiversityParameters, count: int
) -> Scores | Picks:
    """Score: the weight of the candidate's task, 1 / mean confidence, over the candidate's random
    rank in the task.

    So the picks are shared among the tasks in proportion to their weights (highest averages). The
    confidence of an output is exp((1/T) log p), that of a task the mean over its candidates.
    """
    confidence = np.exp(-candidates.measure(normalized_nll))
    if parameters.column is None:
        usable, vectors, _ = quantised_vectors(candidates)
        usable, vectors, confidence = keep_known(usable, vectors, confidence[usable])
        seed = derive_seed("task_diversity", candidates.seed, candidates.round)
        labels = cluster(vectors, parameters.tasks, seed) if len(usable) else usable
    else:
        usable = np.flatnonzero(~np.isnan(confidence))
        confidence = confidence[usable]
        labels = _number_tasks(candidates, parameters.column)[usable]
    if not len(usable):
        return Picks((), np.empty(0))
    mean = np.bincount(labels, weights=confidence) / np.maximum(np.bincount(labels), 1)
    weight = 1 / np.maximum(mean, 1e-6)[labels]
    draws = draw_uniform(candidates.ids, "task_diversity", candidates.seed, candidates.round)[
        usable
    ]
    score = weight / (rank_in_groups(labels, draws) + 1)
    columns = np.full((3, len(candidates.ids)), np.nan)
    columns[:, usable] = score, labels, mean[labels]
    return Scores(columns[0], {"task": columns[1], "task_confidence": columns[2]})


def _number_tasks(candidates: Candidates, column: str) -> Integers:
    """Return the number of each candidate's task, (n,): the place of its value in `column` among
    all values, sorted.

    Raises:
        UserError: no candidate has such a column.
    """
    columns = candidates.columns()
    if not any(column in row for row in columns):
        known = sorted({name for row in columns for name in row})
        raise UserError(
            f"selection.parameters.column is '{column}', a column with short values that no row "
            f"of the pool has{nearest(column, known) if known else ''}"
        )
    values = [str(row.get(column, "")) for row in columns]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _needs(parameters: TaskDiversityParameters) -> Needs:
    space: Needs = frozenset({"embeddings"} if parameters.column is None else {"fields"})
    return space | {"generations"}


TASK_DIVERSITY = with_noise_filter(
    Strategy(
        "task_diversity",
        needs=frozenset({"embeddings", "generations"}),
        parameters=TaskDiversityParameters,
        distribution="statistics",
        select=_select,
        resolve=_needs,
        title="More from weak tasks",
        why="The pool was divided into tasks, by clusters or by a column. Tasks in which the model "
        "is least confident received more places, and the examples within a task were drawn at "
        "random.",
        score="1 divided by the model's mean confidence in the task, divided by the example's "
        "place within the task; larger was picked first.",
        parts={
            "task": "Number of the task: of its cluster, or of its name among all names in order.",
            "task_confidence": "Mean probability per token of the model's own answers in that "
            "task; 1 is fully sure.",
        },
    )
)
