"""Rules of a request: penalties, biases, ends, grammars, and the scores of the prompt itself."""

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atgen_ray.engines.base import TokenRequest, TokenRules, TokenStep
from atgen_ray.engines.decoding import decode_batch
from atgen_ray.engines.grammar import GrammarError, Grammars
from atgen_ray.engines.prompt_scores import CHUNK, score_prompt
from atgen_ray.engines.token_choice import TokenWriter

PROMPT = [17, 3, 42, 99, 7]
END = 2
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "boolean"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tiny_model: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: str) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer)


def write(model: Any, count: int, temperature: float = 0.0, **rules: Any) -> list[TokenStep]:
    """The steps of one request."""
    request = TokenRequest(
        PROMPT, count, temperature, seed=3, rules=TokenRules(**rules) if rules else None
    )
    return [steps[0] for steps in decode_batch(lambda: model, [request], [END], lambda row: True)]


def choose(scores: list[float], count: int, **rules: Any) -> list[int]:
    """The greedy tokens where the model's logits never change."""
    writer = TokenWriter(TokenRequest([1], count, rules=TokenRules(**rules)), [END])
    logprobs = torch.log_softmax(torch.tensor(scores), -1)
    steps = [writer.write(logprobs, 0, 0.0, []) for _ in range(count)]
    assert all(step.logprob == pytest.approx(float(logprobs[step.token])) for step in steps)
    return [step.token for step in steps]


def test_penalties_and_biases_change_the_choice_and_not_the_probability() -> None:
    scores = [3.0, 2.9, -50.0, 2.5]
    assert choose(scores, 4) == [0, 0, 0, 0]
    assert choose(scores, 4, presence_penalty=0.2) == [0, 1, 0, 0]
    assert choose(scores, 5, frequency_penalty=0.3) == [0, 1, 0, 1, 3]
    assert choose(scores, 3, logit_bias={3: 1.0}) == [3, 3, 3]
    assert choose(scores, 3, logit_bias={0: -100.0}) == [1, 1, 1]


def test_an_output_ends_no_earlier_than_it_may_and_at_the_tokens_named() -> None:
    ends = [1.0, 0.5, 4.0]  # the end of the model is the likeliest
    assert choose(ends, 3, min_tokens=2) == [0, 0, END]
    writer = TokenWriter(TokenRequest([1], 3, rules=TokenRules(ignore_eos=True)), [END])
    logprobs = torch.log_softmax(torch.tensor(ends), -1)
    steps = [writer.write(logprobs, 2, 0.0, []) for _ in range(3)]
    assert [(step.token, step.finish) for step in steps] == [(2, None), (2, None), (2, "length")]
    named = TokenWriter(TokenRequest([1], 3, rules=TokenRules(stop_ids=(0,))), [END])
    assert named.write(torch.log_softmax(torch.tensor([4.0, 1.0]), -1), 0, 0.0, []).finish == "stop"


def test_draws_keep_to_the_likeliest() -> None:
    scores = torch.log_softmax(torch.tensor([2.0, 1.9, 1.0, -60.0, 0.9]), -1)

    def draw(**rules: Any) -> set[int]:
        request = TokenRequest([1], 200, 1.0, seed=1, rules=TokenRules(**rules))
        writer = TokenWriter(request, [END])
        return {writer.write(scores, 0, 0.0, []).token for _ in range(200)}

    assert draw(logit_bias={3: 0.1}) == {0, 1, 2, 4}
    assert draw(top_k=2) == {0, 1}
    assert draw(min_p=0.5) == {0, 1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_output_follows_a_schema_and_ends_with_it(
    model: Any, tokenizer: Any, grammars: Grammars, temperature: float
) -> None:
    steps = write(model, 60, temperature, grammar=grammars.compile(SCHEMA))
    answer = json.loads(tokenizer.decode([step.token for step in steps if step.token != END]))
    assert answer.keys() == {"colour", "count"}
    assert answer["colour"] in ("red", "blue")
    assert steps[-1].finish == "stop"
    assert steps[0].logprob == pytest.approx(_score(model, PROMPT, steps[0].token), abs=1e-4)


@pytest.mark.parametrize(
    ("schema", "why"),
    [({"type": "nope"}, "nope"), ({"$ref": "#/$defs/x"}, "x"), ({"pattern": "(?<=a)b"}, "look")],
)
def test_a_schema_that_no_grammar_follows_is_refused(
    grammars: Grammars, schema: dict[str, Any], why: str
) -> None:
    with pytest.raises(GrammarError, match=why):
        grammars.compile({"type": "string"} | schema)


def test_the_prompt_is_scored_in_parts_as_in_one_pass(model: Any) -> None:
    prompt = [(7 * index) % 900 + 5 for index in range(2 * CHUNK + 9)]
    steps = score_prompt(lambda: model, TokenRequest(prompt, 1, prompt_logprobs=2))
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(torch.tensor([prompt])).logits[0].float(), -1)
    right = logprobs[:-1].gather(1, torch.tensor(prompt[1:])[:, None]).squeeze(1).tolist()
    assert [step.token for step in steps] == prompt[1:]
    assert [step.logprob for step in steps] == pytest.approx(right, abs=1e-4)
    assert [step.top[0][0] for step in steps] == logprobs[:-1].argmax(-1).tolist()
    assert {len(step.top) for step in steps} == {2}
    assert score_prompt(lambda: model, TokenRequest(prompt, 1)) == []


def _score(model: Any, prompt: list[int], token: int) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1].float()
    return float(torch.log_softmax(logits, -1)[token])
