"""What each rival of the tuned model is given, and what it costs."""

from typing import Any

import numpy as np
import pytest
from helpers.command_line import SMALLEST

from atgen_ray.annotation.cost_estimate import estimate_larger
from atgen_ray.config import ModelConfig, PromptConfig, RunConfig, Shot
from atgen_ray.models.few_shot import instruct, show_before
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.runs.rivals.estimate import RivalWork, estimate_rivals
from atgen_ray.runs.rivals.instructions import (
    ask_instructions,
    choose_search_metric,
    list_instructions,
    rank_instructions,
    split_labels,
)
from atgen_ray.runs.rivals.nearest import find_nearest, show_nearest
from atgen_ray.text.conversation import Conversation, Turn, read_conversation

SHOTS = [Shot(input=f"question {at} {'word ' * 12}", output=f"answer {at}") for at in range(4)]


def configure(*rivals: Any, **evaluation: Any) -> RunConfig:
    return RunConfig.model_validate(SMALLEST | {"evaluation": {"rivals": [*rivals], **evaluation}})


@pytest.mark.parametrize("questions", [3, 600])
def test_the_nearest_labels_are_those_of_the_highest_cosine(questions: int) -> None:
    rng = np.random.default_rng(questions)
    asked, labels = rng.normal(size=(questions, 5)), rng.normal(size=(7, 5)) * 9
    labels[6] = labels[2]  # of equal ones the earlier
    asked[1] = np.nan
    found = find_nearest(asked, labels, 3)
    assert found.shape == (questions, 3)
    assert found[1].tolist() == [0, 1, 2]
    for row in (0, 2, questions - 1):
        cosines = labels @ asked[row] / np.linalg.norm(labels, axis=1)
        assert found[row].tolist() == sorted(range(7), key=lambda at: (-cosines[at], at))[:3]
    assert find_nearest(asked, labels, 99).shape == (questions, 7)
    assert find_nearest(asked, labels[:0], 3).shape == (questions, 0)


def test_as_many_labels_are_shown_as_the_prompt_has_room_for(tiny_model: str) -> None:
    tokenizer = load_tokenizer(ModelConfig(id=tiny_model))
    prompt = PromptConfig(system="Be brief.")
    for room, expected in ((400, 4), (110, 3), (85, 2), (40, 0)):
        shown = show_nearest(tokenizer, prompt, room, {"a": "the question"}, {"a": SHOTS})
        assert shown.counts == {"a": expected}
        text = PromptBuilder(tokenizer, prompt, room).render(shown.texts["a"])
        order = [text.index(f"answer {at}") for at in reversed(range(expected))]
        assert [*order, text.index("the question")] == sorted(
            [*order, text.index("the question")]
        ), "the nearest stands last"
        assert text.count("Be brief.") == 1
        assert f"answer {expected}" not in text
    assert shown.texts == {"a": "the question"}


def test_a_conversation_keeps_its_tools_and_its_system_turn() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    text = Conversation((Turn("system", "Own"), Turn("user", "Hi")), (tool,)).write()
    shown = read_conversation(show_before(text, SHOTS[:1], "=> "))
    assert shown is not None
    assert [turn.role for turn in shown.turns] == ["system", "user", "assistant", "user"]
    assert shown.turns[2].content == "=> answer 0"
    assert shown.tools == (tool,)
    told = read_conversation(instruct(text, "Sort"))
    assert told is not None
    assert [(turn.role, turn.content) for turn in told.turns] == [
        ("system", "Sort"),
        ("user", "Hi"),
    ]
    assert told.tools == (tool,)


def test_labels_that_choose_are_none_of_those_that_instructions_are_written_from() -> None:
    ids = [f"id-{at}" for at in range(21)]
    writing, held = split_labels(ids, 8, 1)
    assert sorted(writing + held) == sorted(ids)
    assert len(held) == 8
    assert len(split_labels(ids, 99, 1)[1]) == 10
    assert split_labels([*reversed(ids)], 8, 1) == (writing, held)
    assert split_labels(ids[:1], 8, 1) == (ids[:1], [])
    requests = ask_instructions(SHOTS, 3, 2, 0)
    assert len({*requests}) == 3
    for request in requests:
        asked = read_conversation(request)
        assert asked is not None
        assert asked.last_question.count("Answer: answer") == 2
    assert ask_instructions([], 3, 2, 0) == []


def test_an_instruction_must_beat_the_prompt_as_it_is() -> None:
    assert list_instructions(["Sort", " Sort "], ["", "Order them", "Sort"]) == [
        None,
        "Sort",
        "Order them",
    ]
    scores: list[dict[str, float | None]] = [
        {"a": 0.5, "b": 0.5},
        {"a": 1.0, "b": 0.0},
        {"a": 0.4, "b": None},
    ]
    ranked = rank_instructions([None, "Sort", "Order"], scores, "rougeL")
    assert [each.instruction for each in ranked] == [None, "Sort", "Order"]
    lower = rank_instructions([None, "Sort", "Order"], scores, "repetition")
    assert [each.instruction for each in lower] == ["Order", None, "Sort"]
    assert rank_instructions([None], [{}], "rougeL")[0].instruction is None
    assert (
        choose_search_metric(["llm_judge", "nll", "words", "chrf", "rougeL"], "rougeL") == "rougeL"
    )
    assert choose_search_metric(["llm_judge", "nll", "chrf"], "llm_judge") == "chrf"
    assert choose_search_metric(["llm_judge", "nll"], "nll") is None


def test_what_rivals_compute_is_planned() -> None:
    openai = {"type": "openai", "model": "m", "price": {"input": 1.0, "output": 1.0}}
    tried = {"type": "prompt", "instructions": ["Sort"], "proposals": 3, "held_out": 8}
    rivals = ["zero_shot", "knn", {"type": "few_shot", "k": 2}, tried]
    config = configure(*rivals, {"type": "larger", "model": openai})
    # Proposals, five prompts on eight labels, and the test set twice; knn computes nothing.
    work = estimate_rivals(config, 50, 0, 40)
    assert work == RivalWork(3 + 5 * 8 + 2 * 50, 4 * 50, 50, 90)
    assert estimate_rivals(config, 0, 0, 40) == RivalWork()
    assert estimate_rivals(configure(), 50, 0, 40) == RivalWork()
    held = configure("zero_shot", {"type": "few_shot"}, dev_fraction=0.25)
    assert estimate_rivals(held, 0, 0, 40) == RivalWork(20, 20, 0, 40)
    assert estimate_larger(configure("knn"), 0, ["a"]) == {}
