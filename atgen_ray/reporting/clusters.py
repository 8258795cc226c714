"""Which share of the pool's clusters a query batch reaches."""

from collections.abc import Mapping, Sequence

import numpy as np

from atgen_ray.core.arrays import Numbers

Vectors = dict[str, Numbers]  # unit vectors by example id

CLUSTERS = 20
MEMBERS = 5  # at least so many examples to a cluster, on average


class Clusters:
    """K-means over a sample of the pool."""

    def __init__(self, sample: Sequence[Numbers]) -> None:
        from sklearn.cluster import KMeans

        count = min(CLUSTERS, len(sample) // MEMBERS)
        distinct = len(np.unique(np.stack(sample), axis=0)) if count > 1 else 0
        self._count = min(count, distinct)
        self._means = KMeans(self._count, n_init=3, random_state=0).fit(np.stack(sample)) if self._count > 1 else None

    def cover(self, groups: Mapping[str, Sequence[str]], labeled: Sequence[str], vectors: Vectors) -> dict[str, float]:
        """The share for each group, together with `labeled`; empty where the pool has fewer than two clusters."""
        return {
            name: len(self._find([*labeled, *ids], vectors)) / self._count
            for name, ids in groups.items()
            if self._means is not None and ids
        }

    def _find(self, ids: Sequence[str], vectors: Vectors) -> set[int]:
        rows = [vectors[id] for id in ids if id in vectors]
        return set(self._means.predict(np.stack(rows)).tolist()) if rows and self._means is not None else set()
