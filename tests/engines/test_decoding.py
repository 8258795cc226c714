"""The decoder behind model replicas, against `generate` of transformers and peft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.decoding import decode_batch

PROMPTS = [[5, 9, 200], [17, 3, 42, 99, 7, 1000, 20], [300] * 12]


def run(model: Any, requests: list[TokenRequest], alive: Any = lambda row: True) -> list[list[Any]]:
    rows: list[list[Any]] = [[] for _ in requests]
    for steps in decode_batch(lambda: model, requests, [2], alive):
        for row, step in steps.items():
            rows[row].append(step)
    return rows


def expect(model: Any, prompt: list[int], length: int) -> tuple[list[int], list[float]]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=2,
        )
        tokens = out[0, len(prompt) :]
        logits = model(input_ids=out).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.log_softmax(logits, -1).gather(1, tokens[:, None]).squeeze(1)
    return tokens.tolist(), chosen.tolist()


@pytest.fixture(scope="module")
def mixed(tiny_model: str, adapter: Path) -> Any:
    """The base model with the same adapter under two names, the second of them turned round."""
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        str(adapter),
        adapter_name="one",
    )
    model.load_adapter(str(adapter), adapter_name="two")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.two" in name:
                weight.neg_()
    return model.eval()


def test_a_mixed_batch_gives_each_row_what_its_own_adapter_says(
    mixed: Any, tiny_model: str
) -> None:
    names = [None, "one", "two"]
    requests = [TokenRequest(prompt, 9, adapter=name) for prompt in PROMPTS for name in names]
    rows = run(mixed, requests)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    answers = set()
    for request, steps in zip(requests, rows, strict=True):
        if request.adapter is None:
            tokens, logprobs = expect(base, list(request.token_ids), 9)
        else:
            mixed.set_adapter(request.adapter)
            tokens, logprobs = expect(mixed, list(request.token_ids), 9)
        assert [step.token for step in steps] == tokens
        assert [step.logprob for step in steps] == pytest.approx(logprobs, abs=1e-4)
        answers.add((tuple(request.token_ids), tuple(tokens)))
    assert len(answers) == len(
        requests
    )  # no two models say the same, so a wrong adapter would show


def test_rows_end_on_their_own_and_the_rest_goes_on(mixed: Any) -> None:
    together = run(
        mixed, [TokenRequest(prompt, 2 + 3 * index) for index, prompt in enumerate(PROMPTS)]
    )
    alone = [
        run(mixed, [TokenRequest(prompt, 2 + 3 * index)])[0] for index, prompt in enumerate(PROMPTS)
    ]
    assert [[step.token for step in row] for row in together] == [
        [step.token for step in row] for row in alone
    ]
    assert [len(row) for row in together] == [2, 5, 8]
    assert all(row[-1].finish in ("length", "stop") and row[0].finish is None for row in together)


def test_an_unwanted_row_stops(mixed: Any) -> None:
    rows = run(mixed, [TokenRequest(prompt, 6) for prompt in PROMPTS], alive=lambda row: row != 1)
    assert [len(row) for row in rows] == [6, 1, 6]


def test_samples_depend_on_the_seed_alone(mixed: Any) -> None:
    drawn = [
        TokenRequest(PROMPTS[0], 6, temperature=1.0, top_p=0.95, seed=seed) for seed in range(4)
    ]
    together = [[step.token for step in row] for row in run(mixed, drawn)]
    alone = [[step.token for step in run(mixed, [request])[0]] for request in reversed(drawn)]
    assert together == alone[::-1]
    assert len({tuple(row) for row in together}) > 1


def test_top_p_keeps_the_likeliest_tokens(mixed: Any) -> None:
    greedy = [step.token for step in run(mixed, [TokenRequest(PROMPTS[1], 5)])[0]]
    drawn = [
        step.token
        for step in run(mixed, [TokenRequest(PROMPTS[1], 5, temperature=1.0, top_p=1e-6, seed=9)])[
            0
        ]
    ]
    assert drawn == greedy


def test_rows_that_join_say_what_they_say_alone(mixed: Any) -> None:
    """Shorter and longer prompts, with other adapters, come at any step; rows that end leave room
    on the left.
    """
    lengths = [3, 9, 6, 2, 7]
    prompts = [*PROMPTS, [11], [250, 8] * 9]
    names = [None, "one", None, "two", "one"]
    requests = [
        TokenRequest(prompt, length, adapter=name, top_logprobs=3)
        for prompt, length, name in zip(prompts, lengths, names, strict=True)
    ]
    waiting = requests[1:]
    rows: list[list[Any]] = [[] for _ in requests]
    asked = 0

    def join() -> list[TokenRequest]:
        nonlocal asked
        asked += 1
        return [waiting.pop(0) for _ in range(min(len(waiting), asked % 3))]

    for steps in decode_batch(lambda: mixed, requests[:1], [2], lambda row: True, join):
        for row, step in steps.items():
            rows[row].append(step)
    for request, joined in zip(requests, rows, strict=True):
        (alone,) = run(mixed, [request])
        assert [step.token for step in joined] == [step.token for step in alone]
        assert [step.logprob for step in joined] == pytest.approx(
            [step.logprob for step in alone], abs=1e-4
        )
        assert joined[-1].finish == alone[-1].finish
