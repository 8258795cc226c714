"""Conversations in the layouts that people bring: one form for all, or one line that says what is
wrong.
"""

import json
from typing import Any

import pytest

from atgen_ray.data.rows import RowPlan, fill_rows
from atgen_ray.text.conversation import MARK, Conversation, Turn, choose_text, read_conversation

PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "Weather", "parameters": PARAMETERS}
ARGUMENTS = {"town": "Tartu", "days": 2}
CALL = {"name": "weather", "arguments": ARGUMENTS}

OPENAI: dict[str, Any] = {
    "messages": [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "Rain?"}]},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "content": "3 mm"},
        {"role": "assistant", "content": "Yes"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
}
HUGGING_FACE: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief", "tool_calls": None},
        {"role": "user", "content": "Rain?", "tool_calls": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": CALL | {"arguments": ARGUMENTS | {"unit": None}}}
            ],
        },
        {"role": "tool", "name": "weather", "content": "3 mm", "tool_calls": None},
        {"role": "assistant", "content": "Yes", "tool_calls": None},
    ],
    "tools": json.dumps([FUNCTION]),
}
ANTHROPIC: dict[str, Any] = {
    "system": [{"type": "text", "text": "Be brief"}],
    "messages": [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "x"},
                {"type": "tool_use", "id": "call00001", "name": "weather", "input": ARGUMENTS},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call00001",
                    "content": [{"type": "text", "text": "3 mm"}],
                }
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ],
    "tools": [
        {"name": "weather", "description": "Weather", "input_schema": PARAMETERS},
    ],
}
SHAREGPT: dict[str, Any] = {
    "system": "Be brief",
    "messages": [
        {"from": "human", "value": "Rain?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "3 mm"},
        {"from": "gpt", "value": "Yes"},
    ],
    "tools": json.dumps([FUNCTION]),
}
LAYOUTS = {
    "openai": OPENAI,
    "huggingface": HUGGING_FACE,
    "anthropic": ANTHROPIC,
    "sharegpt": SHAREGPT,
}
READ = Conversation(
    (
        Turn("system", "Be brief"),
        Turn("user", "Rain?"),
        Turn("assistant", "", (("weather", ARGUMENTS),), ("call00001",)),
        Turn("tool", "3 mm", (), ("call00001",), "weather"),
    ),
    ({"type": "function", "function": FUNCTION},),
)


def fill(row: Any, template: str = "{{ input }}", **keys: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"references": ("messages",), **keys}
    plan = RowPlan(
        given.pop("input", "messages"),
        given.pop("references"),
        template,
        needs_reference=False,
        signed=given.pop("signed", True),
        **given,
    )
    (filled,) = fill_rows([(row, None, "p.jsonl line 1: ")], plan).to_pylist()
    return dict(filled)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_conversation(layout: str) -> None:
    filled = fill(LAYOUTS[layout])
    assert filled["error"] is None
    assert read_conversation(filled["text"]) == READ
    assert filled["text"] == READ.write()
    assert filled["references"] == ["Yes"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_that_closes_a_conversation_is_its_reference(layout: str) -> None:
    row = LAYOUTS[layout]
    closing = 3 if row["messages"][0].get("role") in ("system", "developer") else 2
    filled = fill(row | {"messages": row["messages"][:closing]})
    assert filled["references"] == [
        '{"name": "weather", "arguments": {"days": 2, "town": "Tartu"}}'
    ]
    asked = read_conversation(filled["text"])
    assert asked is not None
    assert asked.turns == READ.turns[:2]
    assert asked.tools == READ.tools


def test_a_text_before_a_call_is_of_the_same_turn() -> None:
    turns = [
        {"from": "human", "value": "Rain?"},
        {"from": "gpt", "value": "I look."},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function_call", "value": json.dumps(CALL)},
    ]
    call = '{"name": "weather", "arguments": {"days": 2, "town": "Tartu"}}'
    assert fill({"messages": turns})["references"] == [f"I look.\n[{call}, {call}]"]


def test_a_single_question_is_a_text_as_before() -> None:
    turns = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]
    filled = fill({"messages": turns})
    assert (filled["text"], filled["references"]) == ("Two?", ["2"])
    turns.insert(0, {"role": "system", "content": "Be brief"})
    read = read_conversation(fill({"messages": turns})["text"])
    assert read == Conversation((Turn("system", "Be brief"), Turn("user", "Two?")))


def test_the_template_is_that_of_the_users_last_turn() -> None:
    row = OPENAI | {"passages": ["It rains."]}
    filled = fill(row, "{{ passages[0] }}\n\n{{ input }}")
    read = read_conversation(filled["text"])
    assert read == READ.ask("It rains.\n\nRain?")
    assert read != READ
    inner = fill(OPENAI, "{{ messages[1].content[0].text }}!")
    assert inner["text"] == "Rain?!", "a template that takes its column apart gives a text"
    shown = fill(OPENAI, "{{ messages }}")["text"]
    assert "Rain?" in shown
    assert "Yes" not in shown, "the answer is hidden"


def test_answers_and_weights_of_other_turns_are_kept() -> None:
    turns = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one", "weight": 0},
        {"role": "user", "content": "2?"},
    ]
    filled = fill({"messages": turns, "answer": "two"}, references=("answer",))
    read = read_conversation(filled["text"])
    assert read is not None
    assert [turn.learned for turn in read.turns] == [True, False, True]
    assert filled["references"] == ["two"]
    assert read.write() == filled["text"]


def test_what_is_compared_is_the_last_question_or_all_turns() -> None:
    text = READ.write()
    assert choose_text(text, "last") == "Rain?"
    call = '{"name": "weather", "arguments": {"days": 2, "town": "Tartu"}}'
    assert choose_text(text, "whole") == (
        f"user: Rain?\n\nassistant: {call}\n\ntool (weather): 3 mm"
    )
    assert choose_text("a text", "whole") == choose_text("a text", "last") == "a text"
    other = [*OPENAI["messages"]]
    other[1] = {"role": "user", "content": "Snow in the whole of the land today?"}
    signatures = [
        fill(row)["signature"] for row in (OPENAI, SHAREGPT, OPENAI | {"messages": other})
    ]
    assert signatures[0] == signatures[1] != signatures[2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"role": "usr", "content": "?"}, "has the role 'usr' in turn 2, expected one of "),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "has a part of type 'image_url' in turn 2, expected text",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "has a call without a name in turn 2, expected name and arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "has arguments of 'f' in turn 2 that are no JSON",
        ),
        (
            {"from": "function_call", "value": "look"},
            "has a call in turn 2 that is no JSON, expected name and arguments",
        ),
        (
            {"role": "user", "content": "?", "tool_calls": [CALL]},
            "has calls of tools in turn 2, which is of the user, expected none",
        ),
    ],
)
def test_a_turn_that_cannot_be_read_is_told_in_one_line(change: dict[str, Any], told: str) -> None:
    turns = [{"role": "user", "content": "?"}, change, {"role": "user", "content": "?"}]
    error = fill({"messages": turns}, references=())["error"]
    assert error.startswith(f"p.jsonl line 1: 'messages' {told}")
    assert "\n" not in error


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"messages": [{"role": "system", "content": "?"}]},
            "has no turn of the user before the answer, expected one",
        ),
        (OPENAI | {"tools": "none"}, "has 'tools' beside it that are no list"),
        (OPENAI | {"tools": [{"type": "function"}]}, "has no name in tool 1 beside it"),
        (
            {"messages": f"{MARK}...", "answer": "?"},
            "begins as conversations do inside this program",
        ),
        (
            {"messages": [{"role": "user", "content": "\ud800"}, *OPENAI["messages"]]},
            "is not valid Unicode",
        ),
    ],
)
def test_a_conversation_that_cannot_be_read_is_told_in_one_line(
    row: dict[str, Any], told: str
) -> None:
    assert f"p.jsonl line 1: 'messages' {told}" in fill(row, references=())["error"]
