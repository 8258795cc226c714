"""Sums, means and extremes over the output tokens of each example."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.arrays import Numbers

Reduction = Literal["sum", "mean", "max", "min"]


def reduce_tokens(features: pa.Table, column: str, reduction: Reduction) -> Numbers:
    """Return the sum, mean or extreme over the T output tokens of the list column `column`, one
    number for each row of `features`, shape (n,).

    NaN where the row has an error, no tokens, or a value that is null or not finite. A row's number
    depends on that row alone, never on how the table is ordered, sliced or chunked.
    """
    found = [
        _reduce(_numbers(chunk.flatten()), chunk, reduction) for chunk in features[column].chunks
    ]
    return _without_failed(features, found)


def reduce_margins(features: pa.Table, reduction: Reduction) -> Numbers:
    """Return the same over the margins p_1 - p_2 of the two likeliest tokens at each output step,
    from `top_logprobs`.

    NaN also where a step does not report two tokens. The second may have the log-probability -inf.
    """
    found = []
    for chunk in features["top_logprobs"].chunks:
        # All steps of all rows one after the other: a loop over rows would take minutes for a pool.
        steps = chunk.flatten()
        margins = np.full(len(steps), np.nan)
        lengths = pc.fill_null(pc.list_value_length(steps), 0).to_numpy()
        logprobs = _numbers(steps.flatten())
        first = np.cumsum(lengths) - lengths
        enough = lengths >= 2
        top = logprobs[first[enough]]
        margins[enough] = np.where(
            np.isfinite(top), np.exp(top) - np.exp(logprobs[first[enough] + 1]), np.nan
        )
        found.append(_reduce(margins, chunk, reduction))
    return _without_failed(features, found)


def _numbers(values: pa.Array) -> Numbers:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _reduce(values: Numbers, lists: pa.ListArray, reduction: Reduction) -> Numbers:
    """Return the reduction of each list, whose `values` stand one after the other; NaN for an empty
    list or one with a value that is not finite.
    """
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    reduced = np.full(len(lists), np.nan)
    full = lengths > 0
    if full.any():
        # By segment: differences of a running sum would carry rounding over from other rows.
        segments = (np.cumsum(lengths) - lengths)[full]
        extreme = {"max": np.maximum, "min": np.minimum}.get(reduction, np.add)
        with np.errstate(invalid="ignore"):  # inf - inf is a NaN like any other here
            reduced[full] = extreme.reduceat(values, segments)
        if reduction == "mean":
            reduced[full] /= lengths[full]
        # A maximum hides an infinity of the other sign, so the values are checked too.
        spoilt = np.maximum.reduceat(~np.isfinite(values), segments)
        reduced[np.flatnonzero(full)[spoilt]] = np.nan
    return reduced


def _without_failed(features: pa.Table, found: list[Numbers]) -> Numbers:
    """Return the numbers of all chunks, NaN where the row has an error or none is finite."""
    values = np.concatenate(found) if found else np.empty(0)
    values[pc.is_valid(features["error"]).to_numpy() | ~np.isfinite(values)] = np.nan
    return values
