"""Whitening of vectors: its definition, its bounds, and how it is kept."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.config import EmbeddingConfig
from atgen_ray.core.errors import UserError
from atgen_ray.embedding import fit_whitening, load_embeddings
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, WHITENING, measure_whitening
from atgen_ray.embedding.whitening import read_whitening, store_whitening
from atgen_ray.store.run_folder import RunFolder


def draw(count: int = 400) -> np.ndarray:
    """Vectors that point almost all the same way, and vary most along their first axis."""
    generator = np.random.default_rng(0)
    vectors = 10 + generator.standard_normal((count, 6)) * [9, 3, 1, 0.5, 0.2, 0.1]
    rows: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return rows


def test_centred_vectors_are_less_their_mean_and_of_length_one() -> None:
    vectors = draw()
    whitening = fit_whitening(vectors, "center")
    assert whitening is not None
    expected = vectors - vectors.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(whitening.apply(vectors), expected, atol=1e-4)
    assert (vectors @ vectors.T).mean() > 0.5
    assert abs((expected @ expected.T).mean()) < 0.05


@pytest.mark.parametrize("size", [2, 5])
def test_whitened_vectors_vary_alike_in_all_directions(size: int) -> None:
    vectors = draw()
    whitening = fit_whitening(vectors, size)
    assert whitening is not None
    assert whitening.components is not None
    scaled = (vectors - whitening.mean) @ whitening.components.T  # before they get length 1
    np.testing.assert_allclose(np.cov(scaled.T), np.eye(size), atol=1e-4)
    found = whitening.apply(vectors)
    assert found.shape == (400, size)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_same_row_is_the_same_in_every_block_and_missing_ones_stay_missing() -> None:
    vectors = np.tile(draw(100), (50, 1))
    vectors[7] = np.nan
    whitening = fit_whitening(vectors, 4)
    assert whitening is not None
    found = whitening.apply(vectors)
    assert np.isnan(found[7]).all()
    np.testing.assert_array_equal(found[8], found[4908])
    np.testing.assert_array_equal(found[100:200], found[4900:5000])
    alone = whitening.apply(vectors[8:9])
    np.testing.assert_array_equal(alone[0], found[8])
    mean = whitening.mean.astype(np.float32)[None]
    assert np.abs(whitening.apply(mean)).max() < 1e-3  # no direction is made of rounding


def test_more_components_than_there_are_is_one_line() -> None:
    with pytest.raises(UserError, match=r"embedding.whiten is 5, .* have 2 principal components"):
        fit_whitening(draw(3), 5)
    assert fit_whitening(draw(), "off") is None


def test_a_run_s_vectors_are_whitened_as_they_are_read(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "run")
    vectors = draw(50)
    contents = [f"c{number}" for number in range(50)]
    # The target's vectors lie beside those of the pool, by which alone whitening is measured.
    rows = {"content": [*contents, "target"], "embedding": [*vectors, -vectors[0]]}
    folder.write_table("embeddings/a.parquet", pa.table(rows, schema=EMBEDDING_SCHEMA))
    folder.write_table("pool.parquet", pa.table({"content": [*contents, ""]}))  # one was deleted
    np.testing.assert_array_equal(load_embeddings(folder, contents), vectors)
    folder.write_table(WHITENING, measure_whitening(folder, 3, lambda *_: None))
    whitening = fit_whitening(vectors, 3)
    assert whitening is not None
    np.testing.assert_allclose(
        load_embeddings(folder, ["c3", "target"]),
        whitening.apply(np.stack([vectors[3], -vectors[0]])),
        atol=1e-6,
    )
    kept = read_whitening(store_whitening(whitening))
    assert kept is not None
    np.testing.assert_array_equal(kept.apply(vectors), whitening.apply(vectors))


def test_states_are_centred_unless_the_settings_say_otherwise() -> None:
    assert EmbeddingConfig().whitening == "off"
    assert EmbeddingConfig(source="model").whitening == "center"
    assert EmbeddingConfig(source="model", whiten="off").whitening == "off"
    assert EmbeddingConfig(whiten=64).whitening == 64
    with pytest.raises(ValueError, match="whiten"):
        EmbeddingConfig(whiten=1)
