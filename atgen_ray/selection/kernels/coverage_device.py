"""Facility location over all similarities, computed by torch on a device such as a GPU."""

from typing import TYPE_CHECKING

import numpy as np

from atgen_ray.core.arrays import Integers, Numbers, Vectors
from atgen_ray.selection.kernels.coverage import WEIGHT_GRID
from atgen_ray.selection.kernels.similarity import SIMILARITY, round_similarities, rows_within

if TYPE_CHECKING:
    import torch


class DeviceCoverage:
    """DenseCoverage with the arithmetic done by torch on `device`, such as "cuda"; the same gains
    to the last bit.

    The vectors lie on the device as float64, in which every sum is exact. Similarities are computed
    a block of about `megabytes` at a time and never kept.
    """

    def __init__(
        self,
        vectors: Vectors,
        ground: Vectors,
        covered: Numbers,
        weights: Numbers | None,
        megabytes: int,
        device: str,
        follow: bool = True,
    ) -> None:
        import torch

        self.size = len(vectors)
        self._follow = follow
        self._device = torch.device(device)
        self._vectors = torch.tensor(vectors, dtype=torch.float64, device=self._device)
        # The whole pool is usually its own ground; it then lies on the device once.
        same = ground is vectors
        self._ground = (
            self._vectors
            if same
            else torch.tensor(ground, dtype=torch.float64, device=self._device)
        )
        self._covered = torch.tensor(
            round_similarities(covered), dtype=torch.float64, device=self._device
        )
        rounded = (
            np.ones(len(ground))
            if weights is None
            else np.rint(weights * WEIGHT_GRID) / WEIGHT_GRID
        )
        self._weights = torch.tensor(rounded, dtype=torch.float64, device=self._device)
        self._step = rows_within(megabytes, max(len(vectors), len(ground)))

    def gains(self, rows: Integers) -> Numbers:
        """Return the marginal gain of each of `rows`, sum_i w_i max(0, s_ij - c_i)."""
        import torch

        found = [self._gain(part) for part in self._move(rows).split(self._step)]
        return np.asarray(torch.cat(found).cpu().numpy())

    def add(self, row: int) -> tuple[slice, Numbers] | None:
        """Add `row`; see DenseCoverage.add."""
        import torch

        similarities = self._compare(self._vectors[row : row + 1], self._ground)[0]
        changed = torch.nonzero(similarities > self._covered).flatten()
        old = self._covered[changed]
        new = similarities[changed]
        self._covered[changed] = new
        if not self._follow or 4 * len(changed) > len(self._ground):
            return None
        # As in DenseCoverage.gain_decreases; a quarter of the ground is where that costs as much as
        # computing the gains anew.
        decreases = torch.zeros(self.size, dtype=torch.float64, device=self._device)
        for part in torch.arange(len(changed), device=self._device).split(self._step):
            block = self._compare(self._ground[changed[part]], self._vectors)
            low = old[part, None]
            high = new[part, None]
            decreases += self._weights[changed[part]] @ (
                torch.minimum(torch.maximum(block, low), high) - low
            )
        return slice(None), np.asarray(decreases.cpu().numpy())

    def _gain(self, rows: "torch.Tensor") -> "torch.Tensor":
        block = self._compare(self._vectors[rows], self._ground)
        block -= self._covered
        return block.clamp_(min=0.0) @ self._weights

    def _compare(self, rows: "torch.Tensor", columns: "torch.Tensor") -> "torch.Tensor":
        return ((rows * SIMILARITY) @ columns.T).round_().div_(SIMILARITY)

    def _move(self, rows: Integers) -> "torch.Tensor":
        import torch

        return torch.as_tensor(rows, device=self._device)
