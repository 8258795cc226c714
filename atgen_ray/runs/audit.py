"""The audit of a run: which examples of the pool are labelled to measure, and the scores from them.

The draw is a step of round 0 before the first selection, in three parts, each in the journal before
the next begins: the first draw; the second one, planned by the first labels and the answers of the
untuned model; and the labels of the second. So a run that dies draws the same and pays for nothing
twice. What is drawn is never trained on (`RunState.labels`), nor picked (`RunState.candidates`).
"""

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config.evaluation import AuditConfig
from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.stored import Stored
from atgen_ray.evaluation.audit import (
    AuditSample,
    count_first,
    draw_first,
    draw_second,
    to_array,
)
from atgen_ray.models.start_adapter import find_adapter, split_name
from atgen_ray.runs.stored_selection import read_vectors
from atgen_ray.selection.kernels.clusters import cluster
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import AUDIT_SAMPLE
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    from atgen_ray.config import RunConfig

# Examples that an audit is drawn from; of a larger pool as many at random, which widens the
# interval of 100 labels by a quarter of a percent.
FRAME = 20_000
DIRECTIONS = 6  # principal ones of the embeddings, from which scores are predicted
PER_CLUSTER = 4  # labels of the first draw for each cluster
MOST_CLUSTERS = 12
FRAME_SCHEMA = pa.schema([("id", pa.string()), ("group", pa.int32())])

UNTUNED = "untuned"  # the model without an adapter


@dataclass(frozen=True)
class AuditedScores:
    """What the audit says of the rounds so far, as stopping rules read it.

    Attributes:
        sure: of each metric the bound of the last round's interval on the worse side.
        error: standard error of the difference of a metric between two rounds, by their places.
    """

    sure: Mapping[str, float]
    error: Callable[[str, int, int], float]


def build_frame(
    folder: RunFolder, audit: AuditConfig, candidates: pa.StringArray, seed: int
) -> pa.Table:
    """Return FRAME_SCHEMA: the examples to draw from, sorted by id, each with its group.

    Raises:
        UserError: too few examples, or no column of that name.
    """
    ids = heapq.nsmallest(
        FRAME,
        (id_.as_py() for id_ in candidates),
        key=lambda id_: (mix_seed(seed, "audit frame", id_), id_),
    )
    if len(ids) <= audit.labels:
        raise UserError(
            f"evaluation.audit.labels is {audit.labels}, expected fewer than the {len(ids)} "
            f"examples of the pool that can be drawn"
        )
    ids.sort()
    if audit.column is not None:
        groups = _read_groups(folder, audit.column, ids)
    elif audit.embeddings:
        vectors = read_vectors(folder, pa.array(ids, pa.string())).take(ids)
        clusters = count_clusters(audit.labels, len(ids))
        groups = cluster(np.nan_to_num(vectors), clusters, seed % 2**32)
    else:
        groups = np.zeros(len(ids), np.int64)
    return pa.table([pa.array(ids, pa.string()), pa.array(groups, pa.int32())], FRAME_SCHEMA)


def count_clusters(labels: int, frame: int) -> int:
    """Return into how many clusters a frame of so many examples is cut for so many labels."""
    return int(np.clip(count_first(labels, frame) // PER_CLUSTER, 1, MOST_CLUSTERS))


def _read_groups(folder: RunFolder, column: str, ids: Sequence[str]) -> Integers:
    """Return a number for the value of `column` of each example; rows without one are a group."""
    rows = folder.read_rows("context.parquet", ids, ["id", "fields"])
    fields = {row["id"]: json.loads(row["fields"] or "{}") for row in rows}
    values = [fields.get(id_, {}).get(column) for id_ in ids]
    if all(value is None for value in values):
        known = sorted({name for each in fields.values() for name in each})
        raise UserError(
            f"evaluation.audit.column is '{column}', expected a column of the pool with short "
            f"values{nearest(column, known)}"
        )
    _, groups = np.unique([repr(value) for value in values], return_inverse=True)
    return groups.astype(np.int64)


def draw(frame: pa.Table, audit: AuditConfig, seed: int) -> AuditSample:
    """Return the first draw."""
    count = count_first(audit.labels, len(frame))
    rng = np.random.default_rng(mix_seed(seed, "audit", 1))
    return draw_first(frame["id"].to_pylist(), _groups(frame), count, rng)


def draw_more(
    folder: RunFolder,
    frame: pa.Table,
    audit: AuditConfig,
    first: AuditSample,
    values: Mapping[str, float | None],
    seed: int,
) -> AuditSample:
    """Return both draws; `values` are scores of the first one by id, by which the second is
    planned.
    """
    ids = frame["id"].to_pylist()
    features = np.zeros((len(ids), 0))
    if audit.embeddings:
        features = reduce_vectors(read_vectors(folder, frame["id"].combine_chunks()).take(ids))
    rng = np.random.default_rng(mix_seed(seed, "audit", 2))
    count = audit.labels - len(first.ids)
    known = to_array(first.ids, values)
    return draw_second(ids, _groups(frame), features, first, known, count, rng)


def _groups(frame: pa.Table) -> Integers:
    return frame["group"].to_numpy().astype(np.int64)


def reduce_vectors(vectors: np.ndarray) -> Numbers:
    """Return the principal components (N, d) of the vectors, those with the most variance."""
    centred = np.nan_to_num(vectors.astype(np.float64))
    centred -= centred.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return centred @ directions[:, ::-1][:, :DIRECTIONS]


def read_sample(folder: RunFolder) -> AuditSample:
    """Return the examples that the audit of a run has drawn."""
    return AuditSample.from_table(folder.read_table(AUDIT_SAMPLE))


def choose_planned(config: "RunConfig", metrics: Sequence[str]) -> str:
    """Return the metric by which the second draw is planned: one that steers, else the first."""
    steering = sorted(config.stopping.steering)
    return steering[0] if steering else metrics[0]


def exclude_labelled(candidates: pa.StringArray, labelled: set[str]) -> pa.StringArray:
    """Return the candidates without those that a model which is compared was trained on."""
    closed = pa.array(labelled, pa.string())
    return candidates.filter(pc.invert(pc.is_in(candidates, closed)))


def list_labelled(models: Sequence[str], journal: Journal) -> set[str]:
    """Return the examples that the runs among `models` had labelled up to the rounds named."""
    found = set[str]()
    for model in models:
        name, round = split_name(model)
        if journal.find_run(name) is not None:
            found |= {label.id for _, label in journal.annotations(name, last=round)}
    return found


def find_model(model: str, config: "RunConfig", journal: Journal) -> Stored | None:
    """Return the adapter that `model` names: of a run, RUN or RUN:ROUND, or a folder; None for the
    untuned model.

    Raises:
        UserError: there is no such run or folder, or it has no such adapter.
    """
    if model == UNTUNED or split_name(model)[1] == 0:
        return None
    said = f"evaluation.audit.models holds '{model}'"
    return find_adapter(model, said, config, journal, (UNTUNED,))
