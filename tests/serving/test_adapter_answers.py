"""A replica checks a new adapter on its own engine, by what the training answered; the base model
is loaded elsewhere only where that cannot tell, or shows a fault.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atgen_ray.config import ModelConfig, PromptConfig, ServiceConfig
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import AdapterMismatchError, score_answer
from atgen_ray.engines.adapter_probe import PROBES, TOKENS, Probe, measure_probes
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.models.loading import load_tokenizer, load_unmerged
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.serving.replicas import adapter_probe
from atgen_ray.serving.replicas.adapter_directory import Adapter

OTHER = PromptConfig(system="Answer as a run of another prompt does.")


class Engine:
    """Answers as an engine with the adapter does, by peft in float32; without `has_adapter`, as one
    that has forgotten it. With `strays` its own answers differ from the training's at once.
    """

    def __init__(self, model: ModelConfig, adapter: Path) -> None:
        self.model = load_unmerged(model, adapter).eval()
        self.has_adapter, self.strays = True, False
        self.asked: list[TokenRequest] = []

    async def complete(self, request: TokenRequest) -> list[TokenStep]:
        self.asked.append(request)
        prompt, given = list(request.token_ids), list(request.answer_ids)
        if self.has_adapter:
            return self._answer(prompt, given)
        with self.model.disable_adapter():
            return self._answer(prompt, given)

    def _answer(self, prompt: list[int], given: list[int]) -> list[TokenStep]:
        import torch

        with torch.inference_mode():
            if not given:
                made = self.model.generate(
                    input_ids=torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False
                )
                given = made[0, len(prompt) :].tolist()
                given = [3, *given[1:]] if self.strays else given
            scored = score_answer(self.model, prompt, given)
        return [TokenStep(*pair, 0.0) for pair in zip(given, scored.tolist(), strict=True)]


@pytest.fixture(scope="module")
def base(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


@pytest.fixture(scope="module")
def engine(base: ModelConfig, slight_adapter: Path) -> Engine:
    return Engine(base, slight_adapter)


@pytest.fixture(scope="module")
def trained(base: ModelConfig, slight_adapter: Path) -> Adapter:
    """The adapter with what its training, which has another prompt than the service, answered."""
    prompts = PromptBuilder(load_tokenizer(base), OTHER, base.max_prompt_tokens)
    model = load_unmerged(base, slight_adapter)
    probes = [Probe(**each) for each in measure_probes(model, slight_adapter, prompts, 4)]
    return Adapter("sort-1", at_path(slight_adapter), slight_adapter, "0" * 64, probes)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many outputs were compared each time that the base model was loaded once more."""
    found: list[int] = []

    def load(examples: pa.Table, *rest: Any) -> None:
        found.append(len(examples))
        raise AdapterMismatchError("it is another one")

    monkeypatch.setattr(adapter_probe, "check_adapter", load)
    return found


def check(base: ModelConfig, adapter: Adapter, engine: Engine, rows: int = 2) -> None:
    service = ServiceConfig.model_validate(
        {"storage": "/nowhere", "model": base.model_dump(), "replica": {"check_rows": rows}}
    )
    prompts = PromptBuilder(load_tokenizer(base), service.prompt, base.max_prompt_tokens)
    engine.asked.clear()
    asyncio.run(adapter_probe.check_outputs(service, prompts, adapter, engine.complete))


def test_the_right_adapter_is_told_by_the_engine_alone(
    base: ModelConfig, engine: Engine, trained: Adapter, loaded: list[int]
) -> None:
    check(base, trained, engine)
    check(base, trained, engine, rows=3)
    assert [list(request.token_ids) for request in engine.asked] == [
        probe.prompt_ids for probe in trained.probes[:3]
    ]
    assert not any(request.answer_ids for request in engine.asked)
    assert loaded == []


def test_answers_that_differ_are_told_by_scoring_those_of_the_training(
    base: ModelConfig,
    engine: Engine,
    trained: Adapter,
    loaded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where each true answer is one token, as a label often is."""
    monkeypatch.setattr(engine, "strays", True)
    short = [
        replace(each, token_ids=each.token_ids[:1], base=each.base[:1], tuned=each.tuned[:1])
        for each in trained.probes
    ]
    for adapter in (trained, replace(trained, probes=short)):
        check(base, adapter, engine)
        scored = [list(request.answer_ids) for request in engine.asked]
        assert scored == [[], [], *(probe.token_ids for probe in adapter.probes[:2])]
    assert loaded == []


def test_an_engine_without_the_adapter_is_seen(
    base: ModelConfig,
    engine: Engine,
    trained: Adapter,
    loaded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base model is loaded then, and decides."""
    monkeypatch.setattr(engine, "has_adapter", False)
    for strays in (False, True):
        monkeypatch.setattr(engine, "strays", strays)
        with pytest.raises(AdapterMismatchError):
            check(base, trained, engine)
    assert loaded == [2, 2]


def test_without_answers_of_the_training_the_base_model_is_loaded(
    base: ModelConfig, engine: Engine, trained: Adapter, loaded: list[int]
) -> None:
    """After QLoRA there are none; older versions did not tell the prompt that was asked."""
    older = [replace(probe, prompt_ids=[]) for probe in trained.probes]
    for probes in ([], older):
        with pytest.raises(AdapterMismatchError):
            check(base, replace(trained, probes=probes), engine)
    assert loaded == [2, 2]
    prompts = PromptBuilder(load_tokenizer(base), PromptConfig(), base.max_prompt_tokens)
    assert list(engine.asked[0].token_ids) == prompts.encode(PROBES[0])
    check(base, trained, engine, rows=0)
    assert engine.asked == []
