"""Means over the output tokens of each example."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def average_tokens(features: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """Mean over the T output tokens of the list column `column`, one number per row of `features`.

    NaN where the row has an error, no tokens, or a value that is null or not finite. A row's mean depends on that row
    alone: how the table is ordered, sliced or chunked never changes it.
    """
    chunks = [_average_lists(chunk) for chunk in features[column].chunks]
    means = np.concatenate(chunks) if chunks else np.empty(0)
    failed = pc.is_valid(features["error"]).to_numpy()
    means[failed | ~np.isfinite(means)] = np.nan
    return means


def _average_lists(lists: pa.ListArray) -> npt.NDArray[np.float64]:
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    means = np.full(len(lists), np.nan)
    full = lengths > 0
    if full.any():
        # Sums by segment, not differences of a running sum: those would carry rounding over from other rows.
        starts = np.cumsum(lengths) - lengths
        with np.errstate(invalid="ignore"):  # inf - inf is a NaN like any other here
            means[full] = np.add.reduceat(values, starts[full]) / lengths[full]
    return means
