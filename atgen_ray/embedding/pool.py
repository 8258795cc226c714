"""Embedding of a pool with Ray Data; vectors are stored by content hash."""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from atgen_ray.config import EmbeddingConfig
from atgen_ray.core.records import Progress
from atgen_ray.ray_runtime.hardware import count_gpus
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.workers import map_batches
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

FOLDER = "embeddings"
EMBEDDING_SCHEMA = pa.schema([("content", pa.string()), ("embedding", pa.list_(pa.float32()))])
ROWS_PER_FILE = 20_000


def embed_pool(
    examples: pa.Table, config: EmbeddingConfig, folder: RunFolder, progress: Progress
) -> None:
    """Embed every text of `examples` (columns content, text) that has no embedding yet.

    Vectors are L2-normalised float32, written as they are computed to `embeddings/*.parquet` in
    the run's folder. Equal texts share one vector. An embedding that is not finite is stored as
    null.
    """
    import ray.data

    from atgen_ray.embedding.encoder import Encoder

    texts = dict(zip(examples["content"].to_pylist(), examples["text"].to_pylist(), strict=True))
    done = set(read_embeddings(folder)["content"].to_pylist()) & texts.keys()
    # Texts of similar length share a batch, which saves padding; the order is the same in every
    # attempt.
    missing = sorted(texts.keys() - done, key=lambda content: (-len(texts[content]), content))
    progress(len(done), len(texts))
    if not missing:
        return
    size = config.batch_size
    blocks = [
        pa.table({"content": part, "text": [texts[content] for content in part]})
        for part in (missing[start : start + size] for start in range(0, len(missing), size))
    ]
    asked = config.gpus_per_worker if count_gpus() >= config.gpus_per_worker else 0.0
    dataset = map_batches(
        ray.data.from_arrow(blocks),
        Encoder,
        (config,),
        workers=config.workers,
        cpus=1.0,
        gpus=fit_gpus("embedding.gpus_per_worker", config.workers, asked),
    )
    waiting: list[pa.Table] = []
    embedded = len(done)
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        waiting.append(block.cast(EMBEDDING_SCHEMA))
        embedded += block.num_rows
        if sum(table.num_rows for table in waiting) >= ROWS_PER_FILE:
            store_embeddings(folder, pa.concat_tables(waiting))
            waiting = []
        progress(embedded, len(texts))
    if waiting:
        store_embeddings(folder, pa.concat_tables(waiting))


def load_embeddings(folder: RunFolder, contents: Sequence[str]) -> "np.ndarray":
    """Return the vectors of `contents`, float32 (n, d); a text whose embedding is not finite has a
    row of NaN.

    Raises:
        KeyError: a content hash was never embedded.
    """
    import numpy as np

    table = read_embeddings(folder)
    vectors = dict(
        zip(
            table["content"].to_pylist(),
            table["embedding"].to_numpy(zero_copy_only=False),
            strict=True,
        )
    )
    width = next((len(vector) for vector in vectors.values() if vector is not None), 0)
    missing = np.full(width, np.nan, np.float32)
    rows = [vectors[content] for content in contents]
    if not rows:
        return np.empty((0, width))
    return np.stack([missing if row is None else row for row in rows]).astype(np.float32)


def read_embeddings(folder: RunFolder) -> pa.Table:
    """Return all vectors in the run's folder, EMBEDDING_SCHEMA."""
    tables = [folder.read_table(path) for path in folder.list(FOLDER)]
    return pa.concat_tables([EMBEDDING_SCHEMA.empty_table(), *tables])


def store_embeddings(folder: RunFolder, table: pa.Table) -> None:
    """Add vectors (EMBEDDING_SCHEMA) to the run's folder."""
    folder.write_table(f"{FOLDER}/{uuid.uuid4().hex}.parquet", table)
