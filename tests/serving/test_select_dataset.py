"""A selection from a data set that brings its own vectors: no encoder, and one line for what is
wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atgen_ray.data.in_process import reading_in_process
from atgen_ray.selection import Embeddings, select_batch
from atgen_ray.serving.application import parse_service
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.selector import Selector
from atgen_ray.serving.schemas.select import SelectBody

COUNT = 40
VECTORS = np.random.default_rng(0).normal(size=(COUNT, 5))


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    with reading_in_process():
        yield


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data.parquet"
    texts = [f"text number {at} {chr(97 + at % 26) * 9} {at * 7919}" for at in range(COUNT)]
    columns = {"q": texts, "vector": [*map(list, VECTORS)], "n": [*range(COUNT)]}
    ragged = [[1.0] * (1 + at % 2) for at in range(COUNT)]
    table = pa.table(columns | {"ragged": ragged, "gaps": [None, *map(list, VECTORS[1:])]})
    pq.write_table(table, path, row_group_size=7)
    return path


def select(file: Path, limits: dict[str, int] | None = None, **more: Any) -> list[dict[str, Any]]:
    service = parse_service(
        {
            "storage": str(file.parent / "storage"),
            "data_roots": [str(file.parent)],
            # What is not there fails where it is loaded.
            "embedding": {"model": str(file.parent / "no-encoder")},
            "limits": limits or {},
        }
    )
    body = {"strategy": "facility_location", "count": 4, "seed": 3} | more
    body["dataset"] = {"path": str(file), "input": "q"} | more.get("dataset", {})
    return Selector(service, ready=False).select_now(SelectBody.model_validate(body))


def test_the_vectors_of_the_file_are_used_by_row(dataset: Path) -> None:
    picks = select(dataset, dataset={"embedding": "vector"})
    everything = select(dataset, count=COUNT, strategy="random")
    ids = {row["row"]: row["id"] for row in everything}
    assert sorted(ids) == [*range(COUNT)]
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    expected = select_batch(
        "facility_location",
        {},
        ids=[ids[at] for at in range(COUNT)],
        count=4,
        embeddings=Embeddings([ids[at] for at in range(COUNT)], unit.astype(np.float32)),
        seed=3,
    )
    assert [pick["id"] for pick in picks] == expected["id"].to_pylist()
    assert all(ids[pick["row"]] == pick["id"] for pick in picks)


def test_labelled_examples_are_those_of_the_file(dataset: Path) -> None:
    first = select(dataset, dataset={"embedding": "vector"})[0]
    labeled = [{"id": first["id"], "text": "as before"}]
    picks = select(dataset, dataset={"embedding": "vector"}, labeled=labeled)
    assert first["id"] not in [pick["id"] for pick in picks]
    with pytest.raises(ApiError, match="labeled holds 'new', which the dataset has not"):
        select(dataset, dataset={"embedding": "vector"}, labeled=[{"id": "new", "text": "x"}])


def test_a_row_without_a_vector_is_not_ranked(dataset: Path) -> None:
    picks = select(dataset, dataset={"embedding": "gaps"}, count=COUNT - 1)
    assert 0 not in [pick["row"] for pick in picks]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("vectr", r"dataset\.embedding is 'vectr', which the file does not have.*'vector'"),
        ("n", r"dataset\.embedding is 'n', whose type is int64, expected lists of numbers"),
        ("q", r"whose type is string, expected lists of numbers"),
        ("ragged", r"vectors of 1 and of 2 numbers, expected one length"),
    ],
)
def test_a_wrong_column_is_said_in_one_line(dataset: Path, column: str, said: str) -> None:
    with pytest.raises(ApiError, match=said) as error:
        select(dataset, dataset={"embedding": column})
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet_has_no_vectors(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"q": "one"}\n{"q": "two words"}\n')
    with pytest.raises(ApiError, match=r"which is read from one Parquet file"):
        select(path, dataset={"embedding": "vector"}, count=1)


def test_too_many_examples_are_refused_in_one_line(dataset: Path) -> None:
    with pytest.raises(
        ApiError, match=r"40 examples are more than 39 \(limits\.examples\)"
    ) as error:
        select(dataset, {"examples": 39}, strategy="random")
    assert error.value.status == 413
