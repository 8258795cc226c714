"""Which examples are audited: two stratified draws without replacement from a frame of examples.

The first draw has the same share of every group. The second one is of what is left, in strata and
shares that depend on the scores of the first (`plan_second`). Given the first draw, each estimate
from the second one is of the whole frame again and unbiased, whatever was planned: so strata may be
learnt, and a bad surrogate costs precision and never truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from atgen_ray.core.arrays import Integers, Numbers
from atgen_ray.evaluation.audit.surrogate import plan_second

FIRST, SECOND = 1, 2  # phases
FIRST_SHARE = 0.4  # of the labels, in the first phase: enough to learn from, and to lose little
LEAST = 2  # drawn in a stratum: fewer show no variance

# audit/first.parquet and audit/sample.parquet: what is drawn, with what the weights depend on.
SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("phase", pa.int8()),
        ("stratum", pa.int32()),
        ("size", pa.int64()),  # examples of the stratum from which this phase drew
    ]
)


@dataclass(frozen=True)
class AuditSample:
    """The examples that are audited, the first phase before the second; arrays of shape (n,)."""

    ids: Sequence[str]
    phases: Integers
    strata: Integers
    sizes: Integers

    def to_table(self) -> pa.Table:
        """Return SAMPLE_SCHEMA."""
        columns = (self.ids, self.phases, self.strata, self.sizes)
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(columns, SAMPLE_SCHEMA, strict=True)
        ]
        return pa.table(arrays, schema=SAMPLE_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> "AuditSample":
        """Return the sample in a table of SAMPLE_SCHEMA."""
        numbers = [table[name].to_numpy().astype(np.int64) for name in ("phase", "stratum", "size")]
        return cls(table["id"].to_pylist(), *numbers)


def count_first(labels: int, frame: int) -> int:
    """Return how many of `labels` the first phase draws from a frame of so many examples."""
    return min(frame, max(LEAST, round(FIRST_SHARE * labels)))


def draw_first(
    ids: Sequence[str], groups: Integers, count: int, rng: np.random.Generator
) -> AuditSample:
    """Draw `count` examples, as many of each group as its share of the frame.

    Args:
        ids: of the frame, sorted.
        groups: of each example (N,); groups of too few examples for two draws are put together.
    """
    strata = merge_groups(groups, count)
    sizes = np.bincount(strata)
    shares = allocate(count, sizes.astype(float), sizes)
    return _draw(ids, strata, sizes, shares, FIRST, rng)


def draw_second(
    ids: Sequence[str],
    groups: Integers,
    features: Numbers,
    first: AuditSample,
    values: Numbers,
    count: int,
    rng: np.random.Generator,
) -> AuditSample:
    """Draw up to `count` further examples where scores vary, and return both draws.

    Args:
        ids, groups: as for `draw_first`.
        features: what may tell how an example scores (N, d); d may be 0.
        values: scores of the first draw (n,), NaN where there is none.
    """
    at = {id_: place for place, id_ in enumerate(ids)}
    places = np.array([at.get(id_, -1) for id_ in first.ids], np.int64)  # -1: deleted since
    left = np.ones(len(ids), bool)
    left[places[places >= 0]] = False
    count = min(count, int(left.sum()))
    if not count:
        return first
    rest = np.flatnonzero(left)
    known = ~np.isnan(values) & (places >= 0)
    strata, spreads = plan_second(
        merge_groups(groups, count), features, rest, places[known], values[known], count
    )
    sizes = np.bincount(strata, minlength=len(spreads))
    # Half as Neyman (1934) has it and half even: where the spreads mislead, little is lost.
    neyman = sizes * spreads
    total = neyman.sum()
    even = sizes / sizes.sum()
    wanted = (neyman / total + even) / 2 if total > 0 else even
    shares = allocate(count, wanted, sizes)
    more = _draw([ids[at] for at in rest], strata, sizes, shares, SECOND, rng)
    return AuditSample(
        [*first.ids, *more.ids],
        np.append(first.phases, more.phases),
        np.append(first.strata, more.strata),
        np.append(first.sizes, more.sizes),
    )


def merge_groups(groups: Integers, count: int) -> Integers:
    """Return strata from 0 (N,): the groups, but for those in which an even draw of `count` would
    not find two; these are one stratum, and where it is small too, it takes the smallest group in.
    """
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(sizes, kind="stable")
    least = LEAST * len(groups) / max(count, 1)
    ends = np.cumsum(sizes[order])
    small = int((sizes < least).sum())
    if small and ends[small - 1] < least:
        small += 1
    new = np.empty(len(sizes), np.int64)
    new[order] = np.maximum(0, np.arange(len(sizes)) - max(0, small - 1))
    merged: Integers = new[of]
    return merged


def allocate(count: int, wanted: Numbers, sizes: Integers) -> Integers:
    """Return how many to draw from each stratum: near the shares `wanted`, two at least, no more
    than there are, and `count` in all where so many are there. Largest remainders decide.
    """
    least = np.minimum(LEAST, sizes)
    if least.sum() > count:  # too few for two of each: the largest first
        least = np.zeros_like(sizes)
    shares = least.copy()
    for _ in range(len(sizes)):  # each pass fills a stratum, or is the last
        open_ = shares < sizes
        left = count - int(shares.sum())
        if left <= 0 or not open_.any():
            break
        weights = np.where(open_, np.maximum(wanted, 1e-12), 0.0)
        target = weights / weights.sum() * (left + shares[open_].sum())
        missing = np.where(open_, np.clip(target - shares, 0, sizes - shares), 0.0)
        if missing.sum() <= 0:
            break
        missing *= min(1.0, left / missing.sum())
        whole = np.floor(missing + 1e-9).astype(np.int64)
        rest = min(left - int(whole.sum()), int((open_ & (shares + whole < sizes)).sum()))
        order = np.argsort(
            -np.where(shares + whole < sizes, missing - whole, -np.inf), kind="stable"
        )
        whole[order[:rest]] += 1
        shares = shares + whole
    return shares


def _draw(
    ids: Sequence[str],
    strata: Integers,
    sizes: Integers,
    shares: Integers,
    phase: int,
    rng: np.random.Generator,
) -> AuditSample:
    """Draw `shares` examples of each stratum at random, without replacement."""
    order = np.lexsort((rng.random(len(strata)), strata))
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(order)) - starts[strata[order]]
    drawn = order[rank < shares[strata[order]]]
    return AuditSample(
        [ids[at] for at in drawn],
        np.full(len(drawn), phase, np.int64),
        strata[drawn],
        sizes[strata[drawn]],
    )
