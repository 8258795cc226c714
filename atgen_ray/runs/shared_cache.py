"""Cache that runs share: embeddings and the greedy outputs of the untuned model, by the content of
a text.

A cache holds the results of one model. Its name is a hash of everything that decides the result, so
that equal content in the same cache is the same row. Each row has the seconds that it took, so that
a run which reuses it can still report what it would have cost alone.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.hashing import digest, hash_text
from atgen_ray.core.records import FEATURES_SCHEMA, GenerationRequest
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, read_embeddings, store_embeddings
from atgen_ray.store.run_folder import RunFolder

KEY = "content"
SECONDS = "seconds"


@dataclass(frozen=True)
class Found:
    """Rows that another run has computed already, and the seconds that they took there."""

    rows: pa.Table
    seconds: float


class ContentCache:
    """Rows by content in a shared folder. Safe to use from several runs, which at worst compute a
    row twice.
    """

    def __init__(self, root: str, kind: str, identity: Mapping[str, Any]) -> None:
        """`identity` is everything besides the text that decides a row, as plain data."""
        key = digest(json.dumps(identity, sort_keys=True), size=12)
        self._folder = RunFolder(root, f"{kind}-{key}")

    def find(self, contents: Sequence[str]) -> Found | None:
        """Return the rows of those of `contents` that are cached, each once, sorted by content;
        None without any.
        """
        wanted = pa.array(sorted(set(contents)), pa.string())
        tables = [self._folder.read_table(path) for path in self._folder.list("rows")]
        tables = [table.filter(pc.is_in(table[KEY], wanted)) for table in tables]
        if not sum(table.num_rows for table in tables):
            return None
        rows = pa.concat_tables(tables).sort_by([(KEY, "ascending")])
        keys = rows[KEY].to_pylist()
        # Two runs that worked at once may have added the same row.
        first = [index for index, key in enumerate(keys) if index == 0 or key != keys[index - 1]]
        rows = rows.take(first)
        return Found(rows.drop_columns([SECONDS]), float(pc.sum(rows[SECONDS]).as_py()))

    def add(self, rows: pa.Table, seconds: float) -> None:
        """Store `rows` (with a column `content`), which took `seconds` together."""
        if rows.num_rows:
            share = pa.array([seconds / rows.num_rows] * rows.num_rows, pa.float64())
            self._folder.write_table(
                f"rows/{uuid.uuid4().hex}.parquet", rows.append_column(SECONDS, share)
            )


def open_embedding_cache(root: str, space: EmbeddingSpace) -> ContentCache:
    """Open the cache of the vectors of a space, before any whitening."""
    return ContentCache(root, "embeddings", space.identity)


def open_output_cache(
    root: str,
    model: ModelConfig,
    prompt: PromptConfig,
    backend: str,
    options: Mapping[str, Any],
    request: GenerationRequest,
) -> ContentCache:
    """Open the cache of an untuned model's greedy outputs by an engine with these `options`."""
    identity = {
        "model": model.model_dump(mode="json", exclude={"host", "trust_remote_code", "adapter"}),
        "prompt": prompt.model_dump(mode="json"),
        "backend": backend,
        "options": dict(options),
        "top_logprobs": request.top_logprobs,
    }
    return ContentCache(root, "outputs", identity)


def share_outputs(
    cache: ContentCache, examples: pa.Table, generate: Callable[[pa.Table], pa.Table]
) -> tuple[pa.Table, float]:
    """Return FEATURES_SCHEMA for `examples` (columns id, text), sorted by id, and the seconds that
    the cached rows took when they were computed.

    `generate` computes the rows that the cache lacks. Rows that failed are not shared.
    """
    contents = [hash_text(text) for text in examples["text"].to_pylist()]
    content_of = dict(zip(examples["id"].to_pylist(), contents, strict=True))
    found = cache.find(contents)
    known = {row[KEY]: row for row in found.rows.to_pylist()} if found else {}
    rows = [
        {**known[content], "id": id_} for id_, content in content_of.items() if content in known
    ]
    missing = examples.filter(pa.array([content not in known for content in contents]))
    if missing.num_rows:
        started = time.monotonic()
        made = generate(missing)
        seconds = time.monotonic() - started
        rows += made.to_pylist()
        # A failure may have a cause outside the row, such as a lack of memory: do not share it.
        good = made.filter(pc.is_null(made["error"]))
        keys = pa.array([content_of[id_] for id_ in good["id"].to_pylist()], pa.string())
        cache.add(good.drop_columns(["id"]).append_column(KEY, keys), seconds)
    rows.sort(key=lambda row: str(row["id"]))
    names = FEATURES_SCHEMA.names
    features = pa.Table.from_pylist(
        [{name: row[name] for name in names} for row in rows], schema=FEATURES_SCHEMA
    )
    return features, found.seconds if found else 0.0


def share_embeddings(
    cache: ContentCache, contents: Sequence[str], folder: RunFolder, embed: Callable[[], None]
) -> float:
    """Copy cached vectors of `contents` into the run's folder, compute the rest by `embed`, and add
    it to the cache.

    Returns the seconds that the cached vectors took when they were computed.
    """
    have = set(read_embeddings(folder)[KEY].to_pylist())
    found = cache.find([content for content in contents if content not in have])
    if found:
        store_embeddings(folder, found.rows.select(EMBEDDING_SCHEMA.names))
        have |= set(found.rows[KEY].to_pylist())
    started = time.monotonic()
    embed()
    seconds = time.monotonic() - started
    made = read_embeddings(folder)
    made = made.filter(pc.invert(pc.is_in(made[KEY], pa.array(sorted(have), pa.string()))))
    cache.add(made, seconds)
    return found.seconds if found else 0.0
