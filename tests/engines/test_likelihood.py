"""The likelihood of given answers: the same numbers from every engine, and nothing generated."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import GenerationRequest
from atgen_ray.engines.adapter_check import score_answer
from atgen_ray.engines.generation import gather_features, plan_batches
from atgen_ray.engines.likelihood import list_references, read_nats
from atgen_ray.engines.sglang_answers import read_answer
from atgen_ray.engines.sglang_weights import BASE
from atgen_ray.engines.token_calls import TokenCaller
from atgen_ray.engines.transformers_engine import TransformersEngine, TransformersWorker
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder

TEXTS = {"a": "sort: cat ant", "b": "a much longer question, with more words in it"}
REFERENCES = {"a": ["ant cat", "the ant and then the cat, in that order"], "b": ["yes"]}
REQUEST = GenerationRequest(6)


@pytest.fixture(scope="module")
def model(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=60, max_new_tokens=6)


@pytest.fixture(scope="module")
def engine(model: ModelConfig) -> TransformersEngine:
    return TransformersEngine(model, PromptConfig(), EngineConfig())


@pytest.fixture(scope="module")
def expected(model: ModelConfig) -> dict[str, list[float]]:
    """Each reference alone, by plain transformers; cut after six tokens, as in training."""
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    scorer = AutoModelForCausalLM.from_pretrained(model.id)

    def score(text: str, answer: str) -> float:
        with torch.inference_mode():
            tokens = builder.encode_answer(answer)[:6]
            return -float(np.mean(score_answer(scorer, builder.encode(text), tokens)))

    return {id_: [score(text, each) for each in REFERENCES[id_]] for id_, text in TEXTS.items()}


def test_transformers_scores_references_of_unequal_length_in_one_batch(
    model: ModelConfig, engine: TransformersEngine, expected: dict[str, list[float]]
) -> None:
    worker = TransformersWorker(
        model, PromptConfig(), REQUEST, None, EngineConfig(threads_per_worker=1)
    )
    worker.model.generate = None  # nothing is generated
    rows = list_references(TEXTS, REFERENCES, engine)
    (batch,) = plan_batches(rows, 0, 8)
    found = read_nats(gather_features(rows["id"], worker(batch)))
    assert found.keys() == expected.keys()
    for id_, values in found.items():
        assert values == pytest.approx(expected[id_], abs=1e-4)


def test_callers_of_other_engines_send_the_answer_and_read_its_tokens(
    model: ModelConfig, engine: TransformersEngine
) -> None:
    asked: list[Any] = []

    def ask(requests: list[Any]) -> list[Any]:
        asked.extend(requests)
        return [
            read_answer(answer_of(request), 2, BASE, request.answer_ids) for request in requests
        ]

    def answer_of(request: Any) -> dict[str, Any]:
        """What SGLang answers: the last token of the prompt, without a value, comes first."""
        scored = [[None, request.token_ids[-1], None]]
        scored += [[-0.25 * place, token, None] for place, token in enumerate(request.answer_ids)]
        return {
            "meta_info": {
                "finish_reason": {"type": "length"},
                "weight_version": BASE.loaded,
                "input_token_logprobs": scored,
                "output_token_logprobs": [[-1.0, 5, None]],
                "output_top_logprobs": [[[-1.0, 5, None]]],
            }
        }

    rows = list_references(TEXTS, {"b": ["yes"]}, engine)
    caller = TokenCaller(model, PromptConfig(), REQUEST, None, lambda: ask)
    found = read_nats(gather_features(rows["id"], caller(plan_batches(rows, 0, 8)[0])))
    (request,) = asked
    length = len(request.answer_ids)
    assert length > 1
    assert found == {"b": [pytest.approx(0.25 * (length - 1) / 2)]}


def test_an_answer_of_other_tokens_is_no_score() -> None:
    meta = {
        "finish_reason": {"type": "length"},
        "weight_version": BASE.loaded,
        "input_token_logprobs": [[-1.0, 7, None]],
    }
    with pytest.raises(RuntimeError, match="other tokens"):
        read_answer({"meta_info": meta}, 2, BASE, [8])


def test_an_engine_that_cannot_score_is_told_in_one_line() -> None:
    class Plain:
        name = "plain"

    with pytest.raises(UserError, match=r"evaluation\.metrics holds 'nll'.*'plain'"):
        list_references(TEXTS, REFERENCES, Plain())  # type: ignore[arg-type]
