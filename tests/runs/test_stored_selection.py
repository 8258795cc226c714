"""Selection from the files of a run gives the picks of the same tables in memory."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from atgen_ray.core.errors import UserError
from atgen_ray.core.records import CONTEXT_SCHEMA, POOL_SCHEMA
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, store_embeddings
from atgen_ray.ray_runtime.workers import run_apart
from atgen_ray.runs.stored_selection import StoredFeatures, select_stored
from atgen_ray.store import parquet_files
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.testing.pools import Pool, make_pool

FEATURES = "rounds/001/features.parquet"
STRATEGIES = (
    *("random", "length", "nsp", "self_consistency", "huds", "k_center", "hadas"),
    *("rds_plus", "targeted_facility_location", "task_diversity"),
)
PARAMETERS = {"task_diversity": {"column": "kind"}}


@pytest.fixture
def pool() -> Pool:
    return make_pool(90, labeled=9)


@pytest.fixture
def folder(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A folder with the pool in row groups of seven, as a large pool has many."""
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 7)
    folder = RunFolder(str(tmp_path), "run")
    rows: list[dict[str, Any]] = [
        {"id": id_, "row": row, "text": text, "content": f"hash of {row}", "duplicate_of": None}
        for row, (id_, text) in enumerate(zip(pool.ids, pool.texts, strict=True))
    ]
    order = np.random.default_rng(3).permutation(len(rows)).tolist()
    shuffled = [rows[at] for at in order]
    folder.write_table("pool.parquet", pa.Table.from_pylist(shuffled, schema=POOL_SCHEMA))
    candidates = pool.take([*range(9, 90)])
    folder.write_table(FEATURES, candidates.features())
    vectors = {row["content"]: list(pool.vectors[row["row"]]) for row in rows}
    contents = sorted(vectors)
    for part in (contents[:30], contents[30:31], contents[31:]):
        columns = {"content": part, "embedding": [vectors[content] for content in part]}
        store_embeddings(folder, pa.table(columns, schema=EMBEDDING_SCHEMA))
    store_target(folder, pool)
    fields = [
        {"id": id_, "context": None, "fields": json.dumps(values)}
        for id_, values in pool.fields().items()
    ]
    folder.write_table("context.parquet", pa.Table.from_pylist(fields, schema=CONTEXT_SCHEMA))
    return folder


def store_target(folder: RunFolder, pool: Pool) -> None:
    """The target of the pool, in another order than that of its ids."""
    ids = [f"t{number}" for number in range(6)]
    vectors = [row if np.isfinite(row).all() else None for row in pool.target().take(ids)]
    columns = {"content": ids, "embedding": vectors}
    store_embeddings(folder, pa.table(columns, schema=EMBEDDING_SCHEMA))
    rows = [
        {"id": id_, "row": row, "text": "", "content": id_, "duplicate_of": None}
        for row, id_ in enumerate(reversed(ids))
    ]
    folder.write_table("target.parquet", pa.Table.from_pylist(rows, schema=POOL_SCHEMA))


def select(folder: RunFolder, pool: Pool, strategy: str) -> pa.Table:
    texts = dict(zip(pool.ids, pool.texts, strict=True))
    return select_stored(
        folder,
        strategy,
        PARAMETERS.get(strategy, {}),
        pa.array([id_ for id_ in reversed(pool.ids) if id_ not in pool.labeled]),
        8,
        {id_: texts[id_][:20] for id_ in sorted(pool.labeled)},
        StoredFeatures(folder, FEATURES),
        7,
        1,
        None,
        lambda done, total: None,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_are_those_of_the_tables_in_memory(
    folder: RunFolder, pool: Pool, strategy: str
) -> None:
    expected = pool.select(strategy, 8, PARAMETERS.get(strategy))
    assert select(folder, pool, strategy).equals(expected)


def test_a_pool_without_its_columns_says_so(folder: RunFolder, pool: Pool) -> None:
    folder.remove("context.parquet")
    with pytest.raises(UserError, match="read without its columns, expected a new run"):
        select(folder, pool, "task_diversity")


def test_a_worker_selects_the_same(ray_session: None, folder: RunFolder, pool: Pool) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for strategy in ("nsp", "huds"):
        found = run_apart(select, (folder, pool, strategy), 0, lambda: None)
        assert found.equals(pool.select(strategy, 8))


def test_a_workers_error_is_the_error_itself(ray_session: None, folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        run_apart(RunFolder.read_table, (folder, "rounds/002/features.parquet"), 0, lambda: None)
    assert "Traceback" not in str(raised.value)
