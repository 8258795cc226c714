"""Embedding of a pool and of the target with Ray Data; vectors are stored by content hash."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.records import TOMBSTONE, Progress
from atgen_ray.embedding.space import EmbeddingSpace
from atgen_ray.embedding.whitening import (
    SAMPLE,
    Whiten,
    Whitening,
    fit_whitening,
    read_whitening,
    store_whitening,
)
from atgen_ray.ray_runtime.hardware import count_gpus
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.workers import SMALL_POOL, map_batches, run_apart
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FOLDER = "embeddings"
TARGET = "target.parquet"
WHITENING = "whitening.parquet"
EMBEDDING_SCHEMA = pa.schema([("content", pa.string()), ("embedding", pa.list_(pa.float32()))])
HASHES = pa.large_string()  # of the hashes of a whole pool, which may be over 2 GiB
ROWS_PER_FILE = 20_000
SECTION_BYTES = 1 << 27  # texts that one pass over Ray Data embeds: those that are held at once


def embed_pool(folder: RunFolder, space: EmbeddingSpace, progress: Progress) -> None:
    """Embed every text of the run's pool and target that has no embedding yet.

    Vectors are L2-normalised float32, written as they are computed to `embeddings/*.parquet` in
    the run's folder. Equal texts share one vector. An embedding that is not finite is stored as
    null.
    """
    rows = sum(map(folder.count_rows, _list_texts(folder)))
    if rows <= SMALL_POOL:
        new, done, total = _find_new(folder)
    else:
        new, done, total = run_apart(_find_new, (folder,), 0, lambda: progress(0, rows))
    progress(done, total)
    # `map` keeps no section: its texts are in the object store once it is being embedded.
    for blocks in map(partial(_embed, space=space), _read_sections(folder, new)):
        waiting: list[pa.Table] = []
        for block in blocks:
            waiting.append(block.cast(EMBEDDING_SCHEMA))
            done += block.num_rows
            if sum(map(len, waiting)) >= ROWS_PER_FILE:
                store_embeddings(folder, _drain(waiting))
            progress(done, total)
        if waiting:
            store_embeddings(folder, _drain(waiting))


def _list_texts(folder: RunFolder) -> list[str]:
    """Return the tables whose texts are embedded."""
    return ["pool.parquet", *([TARGET] if folder.exists(TARGET) else [])]


def _scan_texts(folder: RunFolder, columns: Sequence[str]) -> Iterator[pa.Table]:
    for rel in _list_texts(folder):
        yield from folder.scan_table(rel, columns)


def list_contents(folder: RunFolder) -> list[str]:
    """Return the content hashes of all rows of pool and target."""
    return [
        hash_ for part in _scan_texts(folder, ["content"]) for hash_ in part["content"].to_pylist()
    ]


def _find_new(folder: RunFolder) -> "tuple[npt.NDArray[np.bool_], int, int]":
    """Return which rows of pool and target are the first with their text and have no embedding yet,
    and how many different texts have one, of how many.
    """
    import numpy as np

    contents = pa.chunked_array(
        [part["content"].combine_chunks().cast(HASHES) for part in _scan_texts(folder, ["content"])]
    )
    different = contents.unique()
    _, first = np.unique(pc.index_in(contents, different), return_index=True)
    vectors = _read_contents(folder, folder.list(FOLDER))
    known = pc.is_in(different, vectors).to_numpy(zero_copy_only=False)
    new = np.zeros(len(contents), dtype=bool)
    new[first[~known]] = True
    return new, int(known.sum()), len(different)


def _read_sections(folder: RunFolder, new: "npt.NDArray[np.bool_]") -> Iterator[pa.Table]:
    """Yield content and text of the `new` rows of pool and target, `SECTION_BYTES` at a time."""
    waiting: list[pa.Table] = []
    begin = 0
    for part in _scan_texts(folder, ["content", "text"]):
        waiting.append(part.filter(pa.array(new[begin : begin + len(part)])))
        begin += len(part)
        if sum(table.nbytes for table in waiting) >= SECTION_BYTES:
            yield _drain(waiting)
    if sum(map(len, waiting)):
        yield _drain(waiting)


def _drain(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of `tables` and empty the list."""
    rows = pa.concat_tables(tables)
    tables.clear()
    return rows


def _embed(texts: pa.Table, space: EmbeddingSpace) -> Iterable[pa.Table]:
    """Return content and embedding of `texts` (content, text), in any order."""
    import ray.data

    config = space.embedding
    worker, arguments = space.worker
    # Texts of similar length share a batch, which saves padding; the order is the same in every
    # attempt.
    texts = texts.set_column(
        texts.schema.get_field_index("text"), "text", space.choose_texts(texts["text"])
    )
    texts = texts.append_column("length", pc.utf8_length(texts["text"]))
    texts = texts.sort_by([("length", "descending"), ("content", "ascending")])
    texts = texts.drop_columns("length")
    size = config.batch_size
    asked = config.gpus_per_worker if count_gpus() >= config.gpus_per_worker else 0.0
    dataset = map_batches(
        ray.data.from_arrow([texts.slice(at, size) for at in range(0, len(texts), size)]),
        worker,
        arguments,
        workers=config.workers,
        cpus=1.0,
        gpus=fit_gpus("embedding.gpus_per_worker", config.workers, asked),
    )
    blocks: Iterable[pa.Table] = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    return blocks


def embed_apart(texts: pa.Table, space: EmbeddingSpace) -> pa.Table:
    """Return the vectors (EMBEDDING_SCHEMA) of `texts` (content, text), which are not the pool's,
    before any whitening.
    """
    blocks = [block.cast(EMBEDDING_SCHEMA) for block in _embed(texts, space)]
    return pa.concat_tables([EMBEDDING_SCHEMA.empty_table(), *blocks])


def load_embeddings(folder: RunFolder, contents: "pa.ChunkedArray | Sequence[str]") -> "np.ndarray":
    """Return the vectors of `contents`, float32 (n, d), whitened if the run whitens; a text whose
    embedding is not finite has a row of NaN.

    Raises:
        KeyError: a content hash was never embedded.
    """
    vectors = _load_vectors(folder, contents)
    whitening = load_whitening(folder)
    return vectors if whitening is None else whitening.apply(vectors)


def load_whitening(folder: RunFolder) -> Whitening | None:
    """Return how the run's vectors are whitened; None where they are used as they are."""
    return read_whitening(folder.read_table(WHITENING)) if folder.exists(WHITENING) else None


def measure_whitening(folder: RunFolder, whiten: Whiten, progress: Progress) -> pa.Table:
    """Return the whitening of the run's embedded pool as a table, WHITENING_SCHEMA.

    Raises:
        UserError: the pool has fewer principal components than asked for.
    """
    rows = folder.count_rows("pool.parquet")
    if rows <= SMALL_POOL:
        return _measure_whitening(folder, whiten)
    return run_apart(_measure_whitening, (folder, whiten), 0, lambda: progress(0, rows))


def _measure_whitening(folder: RunFolder, whiten: Whiten) -> pa.Table:
    import numpy as np

    parts = folder.scan_table("pool.parquet", ["content"])
    contents = pa.chunked_array([part["content"].combine_chunks().cast(HASHES) for part in parts])
    contents = contents.filter(pc.not_equal(contents, TOMBSTONE))
    # Evenly spaced, so that the same pool is always measured by the same rows.
    some = np.linspace(0, len(contents) - 1, min(len(contents), SAMPLE)).astype(np.int64)
    vectors = _load_vectors(folder, contents.take(pa.array(some)))
    return store_whitening(fit_whitening(vectors, whiten))


def _load_vectors(folder: RunFolder, contents: "pa.ChunkedArray | Sequence[str]") -> "np.ndarray":
    import numpy as np

    if not isinstance(contents, pa.ChunkedArray):
        contents = pa.chunked_array([pa.array(contents, HASHES)])
    # Where each vector stands in the files, one after the other, and the vectors in that order.
    paths = folder.list(FOLDER)  # once: a file that came between would shift the others
    found = pc.index_in(contents.cast(HASHES), _read_contents(folder, paths))
    if found.null_count:
        raise KeyError(contents.filter(found.is_null())[0].as_py())
    places = found.to_numpy()
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    vectors = np.empty((0, 0), np.float32)
    begin = 0
    for path in paths:
        for part in folder.scan_table(path):
            table = read_vectors(part["embedding"])
            if not vectors.size and table.size:
                vectors = np.full((len(places), table.shape[1]), np.nan, np.float32)
            first, last = np.searchsorted(ordered, (begin, begin + len(part)))
            if table.size:
                vectors[order[first:last]] = table[ordered[first:last] - begin]
            begin += len(part)
    return vectors if vectors.size else np.empty((len(places), 0), np.float32)


def read_vectors(column: pa.ChunkedArray) -> "npt.NDArray[np.float32]":
    """Return a column of vectors as a table (n, d), with NaN where there is none; (n, 0) without
    any vector.
    """
    import numpy as np

    lists = column.combine_chunks()
    present = lists.is_valid().to_numpy(zero_copy_only=False)
    numbers = lists.flatten().to_numpy(zero_copy_only=False)
    width = len(numbers) // max(1, int(present.sum()))
    vectors = np.full((len(lists), width), np.nan, np.float32)
    vectors[present] = numbers.reshape(int(present.sum()), width)
    return vectors


def _read_contents(folder: RunFolder, paths: Sequence[str]) -> pa.ChunkedArray:
    """Return the content hashes of all vectors in the files `paths`, in their order."""
    schema = EMBEDDING_SCHEMA.empty_table().select(["content"])
    tables = [folder.read_table(path, ["content"]) for path in paths]
    return pa.concat_tables([schema, *tables])["content"].cast(HASHES)


def scan_whitened(folder: RunFolder) -> Iterator[pa.Table]:
    """Yield all vectors in the run's folder part by part, EMBEDDING_SCHEMA, whitened if the run
    whitens.
    """
    import numpy as np

    whitening = load_whitening(folder)
    for path in folder.list(FOLDER):
        for part in folder.scan_table(path):
            if whitening is not None:
                vectors = whitening.apply(read_vectors(part["embedding"]))
                rows = [row if np.isfinite(row).all() else None for row in vectors]
                if vectors.size:
                    part = part.set_column(1, "embedding", pa.array(rows, pa.list_(pa.float32())))
            yield part


def read_embeddings(folder: RunFolder) -> pa.Table:
    """Return all vectors in the run's folder, EMBEDDING_SCHEMA, as the cache holds them."""
    tables = [folder.read_table(path) for path in folder.list(FOLDER)]
    return pa.concat_tables([EMBEDDING_SCHEMA.empty_table(), *tables])


def store_embeddings(folder: RunFolder, table: pa.Table) -> None:
    """Add vectors (EMBEDDING_SCHEMA) to the run's folder."""
    folder.write_table(f"{FOLDER}/{uuid.uuid4().hex}.parquet", table)
