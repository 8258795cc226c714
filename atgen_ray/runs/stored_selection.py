"""Selection from what lies in a run's folder, in this process or in a worker."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Progress
from atgen_ray.embedding import load_embeddings
from atgen_ray.embedding.pool import TARGET
from atgen_ray.selection import Embeddings, find_needs, select_batch
from atgen_ray.selection.features import align
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.text.conversation import Choice, choose_texts

CONTEXT = "context.parquet"


@dataclass(frozen=True)
class StoredFeatures:
    """The `Features` of a round, in the run's folder and sorted by id."""

    folder: RunFolder
    path: str

    @property
    def names(self) -> Sequence[str]:
        return self.folder.list_columns(self.path)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self.folder.read_table(self.path, columns)

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        names = self.names if columns is None else columns
        asked = dict.fromkeys(["id", *names])
        table = self.folder.read_range(self.path, ids[0], ids[-1], [*asked])
        return align(table, ids).select(names)


def read_examples(folder: RunFolder, ids: pa.Array, *columns: str) -> pa.Table:
    """Return these columns, `id` among them, of the examples `ids` of the pool, in its order."""
    parts = folder.scan_table("pool.parquet", columns)
    return pa.concat_tables(part.filter(pc.is_in(part["id"], ids)) for part in parts)


def read_texts(folder: RunFolder, ids: pa.Array, turns: Choice) -> pa.Table:
    """Return id and text of the examples `ids`: of a conversation what is compared with others."""
    table = read_examples(folder, ids, "id", "text")
    return table.set_column(1, "text", choose_texts(table["text"], turns))


def read_vectors(folder: RunFolder, ids: pa.Array) -> Embeddings:
    """Return the embeddings of the examples `ids` of the pool."""
    examples = read_examples(folder, ids, "id", "content")
    vectors = load_embeddings(folder, examples["content"])
    return Embeddings(examples["id"].combine_chunks(), vectors)


def read_target(folder: RunFolder) -> Embeddings:
    """Return the embeddings of the target's prompts."""
    target = folder.read_table(TARGET, ["id", "content"])
    vectors = load_embeddings(folder, target["content"])
    return Embeddings(target["id"].combine_chunks(), vectors)


def read_fields(folder: RunFolder, ids: pa.Array) -> Mapping[str, Mapping[str, Any]]:
    """Return the short columns of the examples `ids`, by id.

    Raises:
        UserError: the pool was read without them, as by an older run that is taken over.
    """
    if not folder.exists(CONTEXT):
        raise UserError(
            "selection.parameters names a column, but the pool of this run was read without its "
            "columns, expected a new run"
        )
    found = dict[str, Mapping[str, Any]]()
    for part in folder.scan_table(CONTEXT, ["id", "fields"]):
        part = part.filter(pc.and_(pc.is_in(part["id"], ids), pc.is_valid(part["fields"])))
        pairs = zip(part["id"].to_pylist(), part["fields"].to_pylist(), strict=True)
        found |= {id_: json.loads(fields) for id_, fields in pairs}
    return found


def select_stored(
    folder: RunFolder,
    strategy: str,
    parameters: dict[str, Any],
    ids: pa.StringArray,
    count: int,
    labels: dict[str, str],
    features: StoredFeatures | None,
    seed: int,
    round: int,
    workers: int | None,
    progress: Progress,
    turns: Choice = "last",
) -> pa.Table:
    """Return picks of a strategy, which is given what it needs of the run's folder; `labels` are
    those of the rounds before, by id, and `turns` what of a conversation it reads.
    """
    from atgen_ray.selection.ray_pool import choose_workers

    needs = find_needs(strategy, parameters)
    known = pa.concat_arrays([pa.array(labels.keys(), pa.string()), ids])
    return select_batch(
        strategy,
        parameters,
        ids=ids,
        count=count,
        labeled=labels.keys(),
        embeddings=read_vectors(folder, known) if "embeddings" in needs else None,
        target=read_target(folder) if "target" in needs else None,
        fields=read_fields(folder, ids) if "fields" in needs else None,
        features=features,
        texts=read_texts(folder, known, turns) if "texts" in needs else None,
        labels=labels,
        seed=seed,
        round=round,
        workers=choose_workers(workers, len(ids), progress),
    )
