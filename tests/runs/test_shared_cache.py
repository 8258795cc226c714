"""What runs share is found by content, by whoever uses the same model, and is made once."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig, ServiceConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import FEATURES_SCHEMA, GenerationRequest
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, read_embeddings, store_embeddings
from atgen_ray.runs.shared_cache import (
    ContentCache,
    open_embedding_cache,
    open_output_cache,
    share_embeddings,
    share_outputs,
)
from atgen_ray.serving.runs import RunManager
from atgen_ray.store.journal import open_journal
from atgen_ray.store.run_folder import RunFolder


class Model:
    """Answers every text with its length, and remembers what it was asked; `bad` texts fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, examples: pa.Table) -> pa.Table:
        rows = examples.to_pylist()
        self.asked += [row["text"] for row in rows]
        made = [
            {"id": row["id"], "error": "failed"}
            if row["text"] == "bad"
            else {
                "id": row["id"],
                "text": str(len(row["text"])),
                "token_ids": [1],
                "logprobs": [-0.5],
            }
            for row in rows
        ]
        return pa.Table.from_pylist(made, schema=FEATURES_SCHEMA)


def outputs(root: Path, options: dict[str, object] | None = None, **model: object) -> ContentCache:
    config = ModelConfig.model_validate({"id": "some/model"} | model)
    return open_output_cache(
        str(root), config, PromptConfig(), "vllm", options or {}, GenerationRequest(8)
    )


def examples(**texts: str) -> pa.Table:
    return pa.table({"id": [*texts], "text": [*texts.values()]})


def test_an_output_is_made_once_and_given_to_every_id(tmp_path: Path) -> None:
    model = Model()
    first, none = share_outputs(outputs(tmp_path), examples(b="one", a="three"), model)
    second, seconds = share_outputs(outputs(tmp_path), examples(x="three", y="seven"), model)
    assert model.asked == ["one", "three", "seven"]
    assert first.schema == second.schema == FEATURES_SCHEMA
    assert [(row["id"], row["text"]) for row in first.to_pylist()] == [("a", "5"), ("b", "3")]
    assert [(row["id"], row["text"]) for row in second.to_pylist()] == [("x", "5"), ("y", "5")]
    assert none == 0
    assert seconds > 0


def test_equal_texts_in_one_pool_are_rows_of_their_own(tmp_path: Path) -> None:
    for _ in range(2):
        rows, _ = share_outputs(outputs(tmp_path), examples(a="same", b="same"), Model())
        assert [(row["id"], row["text"]) for row in rows.to_pylist()] == [("a", "4"), ("b", "4")]


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    model = Model()
    for _ in range(2):
        rows, _ = share_outputs(outputs(tmp_path), examples(a="bad", b="good"), model)
        assert rows.to_pylist()[0]["error"] == "failed"
    assert model.asked == ["bad", "good", "bad"]


@pytest.mark.parametrize(
    "change", [{"id": "other/model"}, {"max_new_tokens": 9}, {"max_prompt_tokens": 9}]
)
def test_another_model_shares_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    share_outputs(outputs(tmp_path), examples(a="text"), Model())
    model = Model()
    share_outputs(outputs(tmp_path, **change), examples(a="text"), model)
    share_outputs(outputs(tmp_path, {"quantization": "fp8"}, **change), examples(a="text"), model)
    assert model.asked == ["text", "text"]


def test_where_the_model_is_hosted_changes_nothing(tmp_path: Path) -> None:
    share_outputs(outputs(tmp_path), examples(a="text"), Model())
    model = Model()
    share_outputs(outputs(tmp_path, host="serve"), examples(a="text"), model)
    assert model.asked == []


def test_vectors_go_from_run_to_run(tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(folder: RunFolder, contents: list[str]) -> float:
        shelf = open_embedding_cache(str(tmp_path / "cache"), EmbeddingSpace(EmbeddingConfig()))

        def make() -> None:
            have = read_embeddings(folder)["content"].to_pylist()
            missing = [content for content in contents if content not in have]
            asked.extend(missing)
            store_embeddings(
                folder,
                pa.table(
                    {"content": missing, "embedding": [[1.0]] * len(missing)},
                    schema=EMBEDDING_SCHEMA,
                ),
            )

        return share_embeddings(shelf, contents, folder, make)

    one, two = RunFolder(str(tmp_path), "one"), RunFolder(str(tmp_path), "two")
    assert embed(one, ["a", "b"]) == 0
    assert embed(two, ["b", "c"]) > 0
    assert embed(one, ["a", "b"]) == 0  # a step that is done again finds its own
    assert asked == ["a", "b", "c"]
    assert sorted(read_embeddings(two)["content"].to_pylist()) == ["b", "c"]


def test_a_caller_over_http_cannot_name_the_cache(tmp_path: Path) -> None:
    with (
        closing(open_journal(str(tmp_path))) as journal,
        pytest.raises(UserError, match="cache is given"),
    ):
        RunManager(ServiceConfig(storage=str(tmp_path)), journal).start({"cache": "/etc"})
