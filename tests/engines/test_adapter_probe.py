"""What a training leaves behind tells whether an engine computes with its adapter, and the base model
is loaded once more only where it does not.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, RunConfig, TrainingConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import score_outputs
from atgen_ray.engines.adapter_probe import (
    PROBES,
    TOKENS,
    Probe,
    can_measure,
    compare_probes,
    measure_probes,
    tabulate_probes,
)
from atgen_ray.engines.generation import gather_features
from atgen_ray.engines.transformers_engine import TransformersWorker
from atgen_ray.models.loading import load_model, load_tokenizer, load_unmerged
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.runs.round_model import RoundModel
from atgen_ray.runs.workers import RAY_WORKERS
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.training.fine_tune import fine_tune

TRAINING = TrainingConfig()
COUNT = 4


def make_prompts(model: ModelConfig) -> PromptBuilder:
    return PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)


def measure(trained: Any, model: ModelConfig, adapter: Path) -> list[Probe]:
    fields = measure_probes(trained, adapter, make_prompts(model), COUNT)
    return [Probe(**each) for each in fields]


def answer(model: ModelConfig, adapter: Path | None, probes: list[Probe]) -> pa.Table:
    """What an engine with `adapter` says to the probes: the one of transformers, without Ray."""
    worker = TransformersWorker(
        model,
        PromptConfig(),
        GenerationRequest(model.max_new_tokens),
        at_path(adapter) if adapter else None,
        EngineConfig(threads_per_worker=1),
    )
    rows = tabulate_probes(probes)
    sample = pa.array([0] * len(rows), pa.int32())
    return gather_features(rows["id"], worker(rows.append_column("sample", sample)))


@pytest.fixture(scope="module")
def probes(model: ModelConfig, slight_adapter: Path) -> list[Probe]:
    return measure(load_unmerged(model, slight_adapter), model, slight_adapter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trained_model_scores_as_the_check_does(
    model: ModelConfig, slight_adapter: Path, dtype: str, tmp_path: Path
) -> None:
    """Also one whose weights have 16 bits, as its checkpoint has: they are widened."""
    checkpoint = tmp_path / "base"
    load_model(model, dtype).save_pretrained(checkpoint)
    load_tokenizer(model).save_pretrained(checkpoint)
    base = model.model_copy(update={"id": str(checkpoint), "dtype": dtype})
    trained = PeftModel.from_pretrained(load_model(base), str(slight_adapter))
    assert can_measure(trained, base, TRAINING)
    found = measure(trained, base, slight_adapter)
    assert [probe.text for probe in found] == list(PROBES[:COUNT])
    assert all(0 < len(probe.token_ids) <= TOKENS for probe in found)
    prompts = make_prompts(base)
    assert all(probe.prompt_ids == prompts.encode(probe.text) for probe in found)
    pairs = [(probe.text, probe.token_ids) for probe in found]
    without, tuned = score_outputs(pairs, base, PromptConfig(), at_path(slight_adapter))
    for probe, before, after in zip(found, without, tuned, strict=True):
        np.testing.assert_allclose(probe.base, before, atol=1e-5)
        np.testing.assert_allclose(probe.tuned, after, atol=1e-5)
    # The weights are as they were: 16 bits where they had 16.
    kinds = {weight.dtype for weight in trained.get_base_model().model.embed_tokens.parameters()}
    assert kinds == {getattr(torch, dtype)}


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_training_leaves_probes_behind(
    model: ModelConfig, method: Literal["lora", "dora"], tmp_path: Path
) -> None:
    """Its packed attention, which knows no answers that grow, is no part of them."""
    examples = [{"text": f"count to {at}", "answer": f"one two {at}"} for at in range(8)]
    training = TrainingConfig(method=method, epochs=1, learning_rate=1e-2)
    result = fine_tune(
        examples,
        model,
        PromptConfig(),
        training,
        0,
        1,
        lambda *_: None,
        None,
        1,
        tmp_path,
        probes=2,
    )
    assert result["packed"]
    found = [Probe(**fields) for fields in result["probes"]]
    assert [probe.text for probe in found] == list(PROBES[:2])
    pairs = [(probe.text, probe.token_ids) for probe in found]
    without, tuned = score_outputs(pairs, model, PromptConfig(), at_path(tmp_path))
    for probe, before, after in zip(found, without, tuned, strict=True):
        np.testing.assert_allclose(probe.base, before, atol=1e-5)
        np.testing.assert_allclose(probe.tuned, after, atol=1e-5)


def test_what_was_saved_is_measured_not_what_is_in_memory(
    model: ModelConfig, slight_adapter: Path, probes: list[Probe]
) -> None:
    trained = load_unmerged(model, slight_adapter)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_" in name:
                weight.add_(1.0)  # as early stopping saves other weights than the last ones
    assert measure(trained, model, slight_adapter) == probes


@pytest.mark.parametrize(
    ("dtype", "stored", "settings"),
    [
        ("float32", "float32", {"method": "qlora"}),  # a base of 4 bits is not the base
        ("float32", "float32", {"sharding": "fsdp", "workers": 2}),
        ("bfloat16", "float32", {}),  # half of the weights' bits are gone
    ],
)
def test_a_model_that_is_not_the_true_one_measures_nothing(
    model: ModelConfig, slight_adapter: Path, dtype: str, stored: str, settings: dict[str, Any]
) -> None:
    base = model.model_copy(update={"dtype": dtype})
    trained = PeftModel.from_pretrained(load_model(base), str(slight_adapter))
    assert not can_measure(trained, base, TrainingConfig(**settings))
    assert not can_measure(load_model(base), base, TrainingConfig(method="full"))


def test_the_right_adapter_is_seen_and_a_wrong_one_too(
    model: ModelConfig, slight_adapter: Path, probes: list[Probe], tmp_path: Path
) -> None:
    right = compare_probes(probes, answer(model, slight_adapter, probes))
    assert right is not None
    assert right.is_within(0.03)
    ignored = compare_probes(probes, answer(model, None, probes))
    assert ignored is None or not ignored.is_within(0.03)
    half = tmp_path / "half"
    half.mkdir()
    weights = load_file(slight_adapter / "adapter_model.safetensors")
    weights = {name: each * (0.5 if "lora_B" in name else 1) for name, each in weights.items()}
    save_file(weights, half / "adapter_model.safetensors")
    (half / "adapter_config.json").write_bytes(
        (slight_adapter / "adapter_config.json").read_bytes()
    )
    partly = compare_probes(probes, answer(model, half, probes))
    assert partly is None or not partly.is_within(0.03)


def test_answers_with_too_little_in_common_tell_nothing(
    model: ModelConfig, slight_adapter: Path, probes: list[Probe]
) -> None:
    features = answer(model, slight_adapter, probes)
    others = [Probe(each.text, [0, *each.token_ids], each.base, each.tuned) for each in probes]
    assert compare_probes(others, features) is None
    assert compare_probes([], features) is None
    still = [Probe(each.text, each.token_ids, each.base, each.base) for each in probes]
    assert compare_probes(still, features) is None  # an adapter that does nothing


class Desk:
    """A `RoundModel` of a run whose training left probes; its engine is transformers' under another
    name, with an adapter of the test's choice.
    """

    def __init__(self, model: ModelConfig, folder: Path, fields: list[dict[str, Any]]) -> None:
        self.model, self.served = model, None
        self.folder = RunFolder(str(folder), "one")
        self.folder.write_json("rounds/001/training.json", {"probes": fields})
        self.full: list[int] = []  # rows that each whole check looked at
        self.adapter = at_path(folder / "rounds" / "001" / "adapter")
        config = RunConfig.model_validate(
            {
                "name": "one",
                "data": {"pool": "p.jsonl", "input": "q", "references": "a"},
                "model": model.model_dump(),
                "annotator": {"type": "dataset"},
                "cache": None,
            }
        )
        workers = RAY_WORKERS.__class__(
            build_engine=lambda *_: SimpleNamespace(name="other", close=lambda: None),
            generate_features=self.generate,
            check_adapter=lambda examples, *_: self.full.append(len(examples)),
            explain_choice=lambda *_: {},
        )
        state: Any = SimpleNamespace(adapter=lambda _: self.adapter)
        self.round_model = RoundModel(
            config, state, self.folder, lambda _: None, lambda _: None, workers
        )

    def generate(
        self, engine: Any, examples: pa.Table, *rest: Any, apart: pa.Table | None = None
    ) -> pa.Table:
        worker = TransformersWorker(
            self.model,
            PromptConfig(),
            GenerationRequest(self.model.max_new_tokens),
            self.served and at_path(self.served),
            EngineConfig(threads_per_worker=1),
        )
        rows = examples if apart is None else pa.concat_tables([examples, apart])
        sample = pa.array([0] * len(rows), pa.int32())
        return gather_features(rows["id"], worker(rows.append_column("sample", sample)))

    def answer(self) -> pa.Table:
        rows = pa.table({"id": ["aa", "bb"], "text": ["count to two", "count to nine"]})
        return self.round_model.answer(1, 1, rows, "predictions", lambda *_: None)


@pytest.fixture
def open_desk(model: ModelConfig, tmp_path: Path) -> Callable[[list[Probe]], Desk]:
    return lambda probes: Desk(model, tmp_path, [vars(probe) for probe in probes])


def test_the_base_model_is_loaded_again_only_where_the_probes_do_not_tell(
    open_desk: Callable[[list[Probe]], Desk], slight_adapter: Path, probes: list[Probe]
) -> None:
    desk = open_desk(probes)
    desk.served = slight_adapter  # type: ignore[assignment]
    assert desk.answer()["id"].to_pylist() == ["aa", "bb"]
    assert desk.full == []
    desk.answer()  # an engine that is kept has the same weights
    assert desk.full == []
    wrong = open_desk(probes)  # it ignores the adapter
    wrong.answer()
    assert wrong.full == [2]
    older = open_desk([])
    older.served = slight_adapter  # type: ignore[assignment]
    older.answer()
    assert older.full == [2]
