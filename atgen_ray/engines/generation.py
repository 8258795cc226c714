"""Generation over many examples with Ray Data. Finished rows are stored as they come, so a killed
pass resumes.
"""

import time
import uuid
from collections import defaultdict
from typing import Any

import pyarrow as pa

from atgen_ray.core.records import FEATURES_SCHEMA, GenerationRequest, Progress
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine
from atgen_ray.store.run_folder import RunFolder

FLUSH_SECONDS = 30.0  # the most work that a kill may lose


class GenerationFailedError(RuntimeError):
    """No row of a pass could be generated: the engine is at fault, not the data."""


def generate_features(
    engine: Engine,
    examples: pa.Table,
    request: GenerationRequest,
    adapter: Stored | None,
    folder: RunFolder,
    parts: str,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """Return greedy outputs (and samples) for every example.

    Args:
        examples: columns id and text.
        parts: folder in the run's folder that keeps the rows done so far; the caller removes it
            once the result is committed.
        batch_size: rows of one batch. Batches hold the same examples in every attempt, so a resumed
            pass gives the numbers of an undisturbed one.

    Returns:
        FEATURES_SCHEMA, sorted by id, one row an example; a row that failed has its reason in
        `error`.

    Raises:
        GenerationFailedError: every row failed.
    """
    import ray.data

    done = _read_parts(folder, parts)
    batches = [
        batch
        for batch in _plan_batches(examples, request.samples, batch_size)
        if not _covers(done, batch)
    ]
    total = examples.num_rows * (1 + request.samples)
    progress(min(len(done), total), total)
    if batches:
        dataset = engine.generate(ray.data.from_arrow(batches), request, adapter)
        waiting: list[dict[str, Any]] = []
        last = time.monotonic()
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            # A batch that was half done before a kill is generated again as a whole.
            fresh = [row for row in block.to_pylist() if (row["id"], row["sample"]) not in done]
            done.update({(row["id"], row["sample"]): row for row in fresh})
            waiting += fresh
            if time.monotonic() - last >= FLUSH_SECONDS:
                _write_part(folder, parts, waiting)
                waiting = []
                last = time.monotonic()
            progress(min(len(done), total), total)
        _write_part(folder, parts, waiting)
    return gather_features(examples, done)


def _plan_batches(examples: pa.Table, samples: int, batch_size: int) -> list[pa.Table]:
    """Return batches of similar length, longest first: this saves padding, and a batch too large
    for memory fails at once.
    """
    rows = sorted(
        zip(examples["id"].to_pylist(), examples["text"].to_pylist(), strict=True),
        key=lambda row: (-len(row[1]), row[0]),
    )
    batches = []
    for start in range(0, len(rows), batch_size):
        ids, texts = zip(*rows[start : start + batch_size], strict=True)
        for sample in range(samples + 1):
            columns = {
                "id": ids,
                "text": texts,
                "sample": pa.array([sample] * len(ids), pa.int32()),
            }
            batches.append(pa.table(columns))
    return batches


def _covers(done: dict[tuple[str, int], Any], batch: pa.Table) -> bool:
    """Return whether every row of the batch is done."""
    keys = zip(batch["id"].to_pylist(), batch["sample"].to_pylist(), strict=True)
    return all(key in done for key in keys)


def _read_parts(folder: RunFolder, parts: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows that earlier attempts have stored, by id and sample."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for path in folder.list(parts):
        for row in folder.read_table(path).to_pylist():
            rows.setdefault((row["id"], row["sample"]), row)
    return rows


def _write_part(folder: RunFolder, parts: str, rows: list[dict[str, Any]]) -> None:
    """Store rows in a file of their own."""
    if rows:
        folder.write_table(
            f"{parts}/{uuid.uuid4().hex}.parquet", pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA)
        )


def gather_features(examples: pa.Table, outputs: dict[tuple[str, int], dict[str, Any]]) -> pa.Table:
    """Return FEATURES_SCHEMA from rows of OUTPUT_SCHEMA by id and sample.

    Raises:
        GenerationFailedError: every row failed.
    """
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (id_, sample), row in sorted(outputs.items()):
        if sample and row["error"] is None:
            samples[id_].append({"text": row["text"], "logprob": sum(row["logprobs"])})
    rows = []
    for id_ in sorted(examples["id"].to_pylist()):
        row = dict(outputs.get((id_, 0)) or {"id": id_, "error": "the engine returned no row"})
        row["samples"] = samples.get(id_, [])
        rows.append(row)
    if rows and all(row["error"] is not None for row in rows):
        raise GenerationFailedError(f"all {len(rows)} rows failed; the first: {rows[0]['error']}")
    return pa.Table.from_pylist(rows, schema=FEATURES_SCHEMA)
