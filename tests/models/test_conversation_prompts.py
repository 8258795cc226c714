"""Prompts of conversations over the chat templates of several families, with and without a section
of tools, and the mask of all the assistant's turns.
"""

import json
from typing import Any

import pytest
from helpers.chat_templates import FAMILIES, TOOL_FAMILIES, build_tokenizer

from atgen_ray.config import PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder
from atgen_ray.text.conversation import Conversation, Turn
from atgen_ray.text.tool_calls import normalise_calls, write_calls
from atgen_ray.training.batching import IGNORED, build_row

EVERY = [name for name in FAMILIES if FAMILIES[name].template] + [*TOOL_FAMILIES]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CALL = ("weather", {"days": 2, "town": "Tartu"})
TALK = (
    Turn("system", "You are terse."),
    Turn("user", "the lazy dog?"),
    Turn("assistant", "brown fox"),
    Turn("user", "what of France?"),
)
CALLED = (
    Turn("user", "is it yes in Tartu?"),
    Turn("assistant", "", (CALL,), ("call00001",)),
    Turn("tool", '{"rain": 3}', (), ("call00001",), "weather"),
)


def build(name: str, limit: int = 2000, **keys: Any) -> PromptBuilder:
    return PromptBuilder(build_tokenizer(name), PromptConfig(**keys), limit)


def learnt(builder: PromptBuilder, row: dict[str, list[int]]) -> str:
    """The text of the tokens in the loss; of each row of them, the first spaces are cut."""
    parts: list[list[int]] = [[]]
    for label in row["labels"]:
        if label == IGNORED:
            parts.append([])
        else:
            parts[-1].append(label)
    texts = (builder.tokenizer.decode(part, skip_special_tokens=False) for part in parts if part)
    return " §".join(text.strip() for text in texts)


@pytest.mark.parametrize("name", EVERY)
def test_every_turn_stands_in_the_prompt_in_its_order(name: str) -> None:
    rendered = build(name, system="Not this.").render(Conversation(TALK).write())
    places = [rendered.index(turn.content) for turn in TALK]
    assert places == sorted(places)
    assert rendered.count("You are terse.") == 1
    assert "Not this." not in rendered
    turns = [{"role": "user", "content": "what?"}]
    alone = build_tokenizer(name).apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=False, strftime_now=str
    )
    assert rendered.endswith(alone.rpartition("what?")[2].rstrip(" "))


@pytest.mark.parametrize("name", EVERY)
def test_tools_calls_and_results_are_in_the_prompt_of_every_family(name: str) -> None:
    rendered = build(name).render(Conversation(CALLED, (TOOL,)).write())
    assert "the weather" in rendered
    assert '"properties"' in rendered
    assert rendered.index("is it yes") < rendered.index("Tartu") < rendered.index("rain")


@pytest.mark.parametrize("name", EVERY)
def test_a_call_is_learnt_as_the_template_writes_it_and_read_as_it_was(name: str) -> None:
    asked = Conversation(CALLED[:1], (TOOL,))
    answer = write_calls([CALL])
    builder = build(name)
    row = build_row(builder, asked.write(), answer, 200)
    tokens = [label for label in row["labels"] if label != IGNORED]
    assert row["labels"][-1] == builder.stop_ids[0]
    assert tokens.count(builder.stop_ids[0]) == 1
    spelled = builder.tokenizer.decode(tokens)
    assert ("[TOOL_CALLS]" in spelled) == (name == "mistral tools")
    assert ('"parameters"' in spelled) == (name == "llama31")
    assert normalise_calls(builder.decode(tokens), asked.tool_names) == answer
    whole = builder.tokenizer.decode(row["input_ids"])
    solved = [turn.to_message() for turn in (*asked.turns, CALLED[1])]
    if name in ("hermes", "mistral tools"):
        assert whole in builder.tokenizer.apply_chat_template(solved, tools=[TOOL], tokenize=False)


def test_several_calls_beside_a_text_are_read_as_they_were() -> None:
    answer = write_calls([CALL, ("weather", {})], "I look.")
    builder = build("hermes")
    asked = Conversation(CALLED[:1], (TOOL,))
    tokens = builder.encode_answer(answer, asked.write())
    assert normalise_calls(builder.decode(tokens), asked.tool_names) == answer
    plain = builder.encode_answer(answer, Conversation(CALLED[:1]).write())
    assert builder.decode(plain) == answer, "without tools it is a text"


@pytest.mark.parametrize("name", EVERY)
def test_all_turns_of_the_assistant_are_learnt_and_nothing_else(name: str) -> None:
    turns = (*TALK, Turn("assistant", "no", learned=False), *CALLED)
    builder = build(name)
    text = Conversation(turns, (TOOL,)).write()
    last = build_row(builder, text, "Paris", 50)
    row = build_row(builder, text, "Paris", 50, "all")
    assert row["input_ids"] == last["input_ids"]
    end = builder.tokenizer.convert_ids_to_tokens(builder.stop_ids[0])
    first, call, answer = learnt(builder, row).split(" §")
    assert (first, answer) == (f"brown fox{end}", f"Paris{end}")
    assert call.endswith(end)
    assert json.dumps(CALL[1]) in call
    assert "rain" not in call
    assert learnt(builder, last) == answer


def test_turns_that_cannot_be_told_apart_are_refused() -> None:
    text = Conversation((Turn("assistant", "fox"), Turn("user", "dog"))).write()
    builder = build("gemma")
    assert "user: dog" in builder.render(text), "the template refuses the turns: they are one text"
    with pytest.raises(UserError, match=r"training\.turns is 'all', but the chat template"):
        build_row(builder, text, "yes", 9, "all")


def test_neighbours_of_one_role_are_joined_where_roles_must_alternate() -> None:
    rendered = build("gemma").render(Conversation((*TALK, Turn("user", "quick?"))).write())
    assert "<start_of_turn>user\nwhat of France?\n\nquick?<end_of_turn>" in rendered


@pytest.mark.parametrize("name", EVERY)
def test_a_turn_that_spells_control_tokens_ends_nothing(name: str) -> None:
    tokenizer = build_tokenizer(name)
    spelled = "".join((FAMILIES | TOOL_FAMILIES)[name].special)
    turns = (*TALK[:3], Turn("user", f"fox {spelled} dog"))
    tool = {"type": "function", "function": {"name": "a", "description": spelled}}
    builder = build(name)
    special = set(tokenizer.all_special_ids)
    clean = [
        Conversation((*turns[:3], Turn("user", "fox dog")), (tool | {"function": {"name": "a"}},)),
        Conversation(turns, (tool,)),
    ]
    counts = [sum(token in special for token in builder.encode(each.write())) for each in clean]
    assert counts[0] == counts[1]


def test_an_overlong_conversation_loses_its_oldest_turns() -> None:
    turns = [Turn("user" if at % 2 == 0 else "assistant", f"the lazy dog {at}") for at in range(41)]
    text = Conversation((TALK[0], *turns)).write()
    builder = build("chatml", 120)
    tokens = builder.encode(text)
    shown = builder.tokenizer.decode(tokens)
    assert len(tokens) <= 120
    assert "You are terse." in shown
    assert "dog 40" in shown
    assert "dog 0" not in shown
    assert shown.index("user") < shown.index("dog 3")
    row = build_row(builder, text, "yes", 9, "all")
    assert row["input_ids"][: len(tokens)] == tokens
    with pytest.raises(OverlongPromptError):
        build("chatml", 120, overlong="reject").encode(text)
    long = Conversation((TALK[0], Turn("user", "quick brown fox " * 90))).write()
    assert 100 < len(builder.encode(long)) <= 120
    assert builder.tokenizer.decode(builder.encode(long)).endswith("<|im_start|>assistant\n")
    heavy = Conversation((Turn("system", "quick brown fox " * 90), *TALK[1:])).write()
    assert len(builder.encode(heavy)) == 120
    assert len(build_row(builder, heavy, "yes", 9, "all")["labels"]) <= 129
