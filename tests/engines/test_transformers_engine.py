"""The transformers engine, and SGLang where a test is about every engine: what is reported is what
the model computes, whatever stands beside it in a batch.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import FEATURES_SCHEMA
from atgen_ray.core.stored import at_path
from atgen_ray.engines import transformers_engine
from atgen_ray.engines.adapter_check import AdapterMismatchError, check_adapter, score_outputs
from atgen_ray.engines.base import OUTPUT_SCHEMA
from atgen_ray.engines.generation import GenerationFailedError
from atgen_ray.engines.transformers_engine import TransformersWorker
from atgen_ray.ray_runtime.workers import KEEPING
from atgen_ray.store.run_folder import RunFolder

Generate = Callable[..., pa.Table]

ONE_THREAD = EngineConfig(threads_per_worker=1)


def flat(features: pa.Table, column: str) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in features[column].to_pylist()])


def test_logprobs_are_those_of_one_forward_pass(
    generate: Generate, model: ModelConfig, examples: pa.Table, adapter: Path, backend: str
) -> None:
    for place, weights in enumerate(
        (None, adapter)
    ):  # as `score_outputs` has them, without and with the adapter
        features = generate(adapter=weights, folder=f"run{place}", backend=backend)
        pairs = list(
            zip(examples["text"].to_pylist(), features["token_ids"].to_pylist(), strict=True)
        )
        expected = np.concatenate(
            score_outputs(pairs, model, PromptConfig(), at_path(adapter))[place]
        )
        np.testing.assert_allclose(flat(features, "logprobs"), expected, atol=1e-4)


def test_features_have_the_schema_and_consistent_numbers(
    generate: Generate, examples: pa.Table, backend: str
) -> None:
    features = generate(backend=backend)
    assert features.schema == FEATURES_SCHEMA
    assert features["id"].to_pylist() == sorted(examples["id"].to_pylist())
    for row in features.to_pylist():
        assert row["error"] is None
        assert (
            len(row["logprobs"])
            == len(row["entropies"])
            == len(row["top_logprobs"])
            == len(row["token_ids"])
        )
        np.testing.assert_allclose(
            [top[0] for top in row["top_logprobs"]], row["logprobs"], atol=1e-5
        )
        assert all(0 <= entropy <= np.log(50_000) for entropy in row["entropies"])


def test_batch_composition_never_changes_a_score(generate: Generate, backend: str) -> None:
    alone, together = (
        generate(batch_size=1, folder="alone", backend=backend),
        generate(batch_size=14, folder="together", backend=backend),
    )
    assert alone["token_ids"].to_pylist() == together["token_ids"].to_pylist()
    np.testing.assert_allclose(flat(alone, "logprobs"), flat(together, "logprobs"), atol=1e-4)
    np.testing.assert_allclose(flat(alone, "entropies"), flat(together, "entropies"), atol=1e-4)


def test_output_ends_with_its_end_of_turn_token(generate: Generate, demo_model: str) -> None:
    model = ModelConfig(id=demo_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=24)
    worker = TransformersWorker(model, PromptConfig(), _request(24), None, ONE_THREAD)
    texts = ["What is the capital of France?", "Write a very long story about a river."]
    rows = worker(
        pa.table({"id": ["a", "b"], "text": texts, "sample": pa.array([0, 0], pa.int32())})
    ).to_pylist()
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for row in rows:
        ends = [token == 2 for token in row["token_ids"]]
        assert ends == [False] * (len(ends) - 1) + [row["finish_reason"] == "stop"]
        assert "<|im_end|>" not in row["text"]
        assert len(row["token_ids"]) <= 24


def test_samples_are_drawn_anew_and_repeatably(generate: Generate) -> None:
    first, again, other = (
        generate(samples=3, seed=seed, folder=name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert first["samples"].to_pylist() == again["samples"].to_pylist()
    assert first["samples"].to_pylist() != other["samples"].to_pylist()
    for row in first.to_pylist():
        texts = [sample["text"] for sample in row["samples"]]
        assert len(texts) == 3
        assert len({*texts, row["text"]}) > 1
        assert all(sample["logprob"] < 0 for sample in row["samples"])


def test_a_prompt_that_is_too_long_costs_only_its_row(
    generate: Generate, examples: pa.Table, backend: str
) -> None:
    rows = pa.concat_tables([examples, pa.table({"id": ["zz"], "text": ["long " * 500]})])
    found = generate(rows, prompt=PromptConfig(overlong="reject"), backend=backend)
    features = {row["id"]: row for row in found.to_pylist()}
    assert "tokens" in features["zz"]["error"]
    assert features["zz"]["token_ids"] is None
    assert all(features[id_]["error"] is None for id_ in examples["id"].to_pylist())


def test_a_pass_in_which_every_row_fails_is_a_failure(generate: Generate, backend: str) -> None:
    rows = pa.table({"id": ["a", "b"], "text": ["long " * 500, "long " * 600]})
    with pytest.raises(GenerationFailedError, match="all 2 rows failed"):
        generate(rows, prompt=PromptConfig(overlong="reject"), backend=backend)


def test_an_interrupted_pass_goes_on_where_it_stopped(
    generate: Generate, examples: pa.Table, tmp_path: Path, backend: str
) -> None:
    whole = generate(folder="whole", backend=backend)
    kept = whole.slice(0, 8).to_pylist()
    marked = [{**row, "sample": 0, "text": "kept from before the kill"} for row in kept]
    part = pa.Table.from_pylist(marked, schema=OUTPUT_SCHEMA)
    RunFolder(str(tmp_path), "killed").write_table("parts/one.parquet", part)
    resumed = generate(folder="killed", backend=backend)
    assert resumed["text"].to_pylist()[:8] == ["kept from before the kill"] * 8
    np.testing.assert_allclose(flat(resumed, "logprobs"), flat(whole, "logprobs"), atol=1e-5)


class DyingWorker(TransformersWorker):
    """Kills its own process at its first batch, once."""

    grave: Path

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not self.grave.exists():
            self.grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture(params=["tasks", "actors"])
def workers(
    ray_session: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tasks, and in actors as where Ray does not keep processes that have nothing to do."""
    if request.param == "actors":
        for key in KEEPING:
            monkeypatch.delenv(key)


@pytest.mark.usefixtures("workers")
def test_an_engine_that_dies_is_replaced(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(folder="whole")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(DyingWorker, "grave", tmp_path / "died", raising=False)
    monkeypatch.setattr(transformers_engine, "TransformersWorker", DyingWorker)
    assert generate(folder="died").equals(whole)
    assert (tmp_path / "died").exists()


class DoomedWorker(TransformersWorker):
    """Dies of every batch, as of one too large for its memory."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        os.kill(os.getpid(), signal.SIGKILL)
        return batch


@pytest.mark.usefixtures("workers")
def test_an_engine_that_always_dies_does_not_keep_the_run_for_ever(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(transformers_engine, "TransformersWorker", DoomedWorker)
    monkeypatch.setattr("atgen_ray.ray_runtime.workers.MAX_RESTARTS", 1)
    with pytest.raises((ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)):
        generate(folder="doomed")


def test_a_batch_that_fails_is_halved_down_to_the_row_at_fault(model: ModelConfig) -> None:
    worker = TransformersWorker(model, PromptConfig(), _request(4), None, ONE_THREAD)
    generate_batch = worker._generate_batch

    def fail_on_poison(prompts: list, sampled: bool) -> list:
        if any(prompt.id == "e3" for prompt in prompts):
            raise RuntimeError("out of memory")
        return generate_batch(prompts, sampled)

    worker._generate_batch = fail_on_poison  # type: ignore[method-assign]
    ids = [f"e{index}" for index in range(6)]
    batch = pa.table({"id": ids, "text": ids, "sample": pa.array([0] * 6, pa.int32())})
    errors = {row["id"]: row["error"] for row in worker(batch).to_pylist()}
    assert errors.pop("e3") == "generation failed: out of memory"
    assert set(errors.values()) == {None}


def test_other_weights_than_asked_for_are_noticed(
    generate: Generate, examples: pa.Table, model: ModelConfig, adapter: Path, backend: str
) -> None:
    right = generate(adapter=adapter, folder="right", backend=backend)
    wrong = generate(folder="wrong", backend=backend)
    effect = check_adapter(
        examples, right, model, PromptConfig(), EngineConfig(), at_path(adapter), 4
    )
    assert effect is not None
    assert effect.error < 1e-4
    with pytest.raises(AdapterMismatchError, match="not those of the adapter"):
        check_adapter(examples, wrong, model, PromptConfig(), EngineConfig(), at_path(adapter), 4)


def _request(tokens: int) -> Any:
    from atgen_ray.core.records import GenerationRequest

    return GenerationRequest(tokens)
