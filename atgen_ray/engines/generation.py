"""Generation over many examples with Ray Data. Finished rows are stored as they come, so a killed
pass resumes. They stay in columns of numbers throughout.
"""

import time
import uuid
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.records import FEATURES_SCHEMA, GenerationRequest, Progress
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine
from atgen_ray.store.run_folder import RunFolder

FLUSH_SECONDS = 30.0  # the most work that a kill may lose
SECTION_ROWS = 1 << 15  # outputs of one pass: those that are held at once

Key = tuple[str, int]  # id and sample


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
    apart: pa.Table | None = None,
) -> pa.Table:
    """Return greedy outputs (and samples) for every example.

    Args:
        examples: columns id and text; with a column answer, answers are scored in one forward pass
            and nothing is generated.
        parts: folder in the run's folder that keeps the rows done so far; the caller removes it
            once the result is committed.
        batch_size: rows of one batch. Batches hold the same examples in every attempt, so a resumed
            pass gives the numbers of an undisturbed one.
        apart: more examples, answered greedily in batches of their own.

    Returns:
        FEATURES_SCHEMA, sorted by id, one row an example; a row that failed has its reason in
        `error`. Rows `apart` come last.

    Raises:
        GenerationFailedError: every row failed.
    """
    import ray.data

    done = set[Key]()
    finished = [OUTPUT_SCHEMA.empty_table()]
    for path in folder.list(parts):
        finished.append(_take_fresh(folder.read_table(path), done))
    planned = plan_batches(examples, request.samples, batch_size)
    total = examples.num_rows * (1 + request.samples)
    if apart is not None:
        planned += plan_batches(apart, 0, batch_size)
        total += len(apart)
    batches = [batch for batch in planned if not done.issuperset(_read_keys(batch))]
    progress(min(len(done), total), total)
    if batches:
        dataset = engine.generate(ray.data.from_arrow(batches), request, adapter)
        stored = len(finished)
        last = time.monotonic()
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            # A batch that was half done before a kill is generated again as a whole.
            finished.append(_take_fresh(block, done))
            if time.monotonic() - last >= FLUSH_SECONDS:
                _write_part(folder, parts, finished[stored:])
                stored = len(finished)
                last = time.monotonic()
            progress(min(len(done), total), total)
        _write_part(folder, parts, finished[stored:])
    outputs = pa.concat_tables(finished)
    features = gather_features(examples["id"], outputs)
    if apart is None:
        return features
    return pa.concat_tables([features, _gather(apart["id"], outputs)])


def plan_batches(examples: pa.Table, samples: int, batch_size: int) -> list[pa.Table]:
    """Return batches of similar length, longest first: this saves padding, and a batch too large
    for memory fails at once.
    """
    forced = "answer" in examples.column_names
    answers = examples["answer"].to_pylist() if forced else [""] * len(examples)
    rows = sorted(
        zip(examples["id"].to_pylist(), examples["text"].to_pylist(), answers, strict=True),
        key=lambda row: (-len(row[1]) - len(row[2]), row[0]),
    )
    batches = []
    for start in range(0, len(rows), batch_size):
        ids, texts, given = zip(*rows[start : start + batch_size], strict=True)
        for sample in range(samples + 1):
            columns = {
                "id": ids,
                "text": texts,
                "sample": pa.array([sample] * len(ids), pa.int32()),
                **({"answer": given} if forced else {}),
            }
            batches.append(pa.table(columns))
    return batches


def _read_keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows["id"].to_pylist(), rows["sample"].to_pylist(), strict=True))


def _take_fresh(rows: pa.Table, done: set[Key]) -> pa.Table:
    """Return those of `rows` that are not `done` yet, as OUTPUT_SCHEMA, and add them to `done`."""
    fresh = [key not in done for key in _read_keys(rows)]
    done.update(_read_keys(rows))
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in OUTPUT_SCHEMA
    ]
    return pa.table(columns, schema=OUTPUT_SCHEMA).filter(pa.array(fresh, pa.bool_()))


def _write_part(folder: RunFolder, parts: str, rows: Iterable[pa.Table]) -> None:
    """Store rows in a file of their own."""
    table = pa.concat_tables([OUTPUT_SCHEMA.empty_table(), *rows])
    if len(table):
        folder.write_table(f"{parts}/{uuid.uuid4().hex}.parquet", table)


def gather_features(ids: pa.ChunkedArray, outputs: pa.Table) -> pa.Table:
    """Return FEATURES_SCHEMA for `ids`, sorted, from rows of OUTPUT_SCHEMA, which may belong to
    other examples too.

    Raises:
        GenerationFailedError: every row failed.
    """
    features = _gather(ids, outputs)
    errors = features["error"]
    if len(ids) and not errors.null_count:
        raise GenerationFailedError(f"all {len(ids)} rows failed; the first: {errors[0]}")
    return features


def _gather(ids: pa.ChunkedArray, outputs: pa.Table) -> pa.Table:
    ids = ids.take(pc.sort_indices(ids)).combine_chunks()
    greedy = outputs.filter(pc.equal(outputs["sample"], 0))
    at = pc.index_in(ids, greedy["id"].combine_chunks())
    rows = greedy.take(at)
    lacking = at.is_null()
    errors = pc.if_else(lacking, "the engine returned no row", rows["error"])
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {"id": ids, "error": errors, "samples": _gather_samples(ids, outputs)}
    return pa.table([columns[name] for name in FEATURES_SCHEMA.names], schema=FEATURES_SCHEMA)


def _gather_samples(ids: pa.StringArray, outputs: pa.Table) -> pa.ListArray:
    """Return the samples of each of `ids`, in the order of their numbers, without those that
    failed.
    """
    drawn = outputs.select(["id", "sample", "text", "logprobs", "error"])
    drawn = drawn.filter(pc.and_(pc.greater(drawn["sample"], 0), pc.is_null(drawn["error"])))
    drawn = drawn.filter(pc.is_in(drawn["id"], ids))
    drawn = drawn.sort_by([("id", "ascending"), ("sample", "ascending")])
    owners = pc.index_in(drawn["id"], ids).to_numpy()
    ends = np.cumsum(np.bincount(owners, minlength=len(ids)))
    samples = pa.StructArray.from_arrays(
        [drawn["text"].combine_chunks(), _sum_lists(drawn["logprobs"].combine_chunks())],
        fields=list(FEATURES_SCHEMA.field("samples").type.value_type),
    )
    offsets = pa.array(np.append(0, ends), pa.int32())
    return pa.ListArray.from_arrays(offsets, samples, FEATURES_SCHEMA.field("samples").type)


def _sum_lists(lists: pa.ListArray) -> pa.Array:
    """Return the sum of each list of numbers, float32; 0 for an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    sums = np.zeros(len(lists))
    full = lengths > 0
    if full.any():
        sums[full] = np.add.reduceat(values, (np.cumsum(lengths) - lengths)[full])
    return pa.array(sums.astype(np.float32), pa.float32())
