"""Dotted paths into rows, and what stays visible of a row when its answers are hidden."""

from typing import Any

import pytest

from atgen_ray.data.columns import find_addresses, find_leaves, hide_leaves, list_columns, to_texts

ROW = {
    "paper": {"abstract": "A", "title": None},
    "answers": [{"text": "one"}, {"text": "two", "start": 3}, {"start": 4}],
    "tags": ["x", "y"],
    "a.b": "literal",
    "a": {"b": "nested", "c.d": {"e": 1}},
    "empty": [],
    "null": None,
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("paper.abstract", ["A"]),
        ("paper.title", [None]),
        ("answers.0.text", ["one"]),
        ("answers.text", ["one", "two"]),
        ("answers.9.text", [None]),
        ("tags", [["x", "y"]]),
        ("tags.1", ["y"]),
        ("a.b", ["literal"]),
        ("a.c.d.e", [1]),
        ("empty.text", [None]),
        ("null.deep.path", [None]),
        ("paper.year", None),
        ("answers.end", None),
        ("tags.name", None),
        ("paper.abstract.word", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_path_finds_its_values(path: str, values: list[Any] | None) -> None:
    leaves = find_leaves(ROW, path)
    assert (leaves if leaves is None else [value for _, value in leaves]) == values


def visible(record: dict[str, Any], answers: list[str], question: str) -> dict[str, Any]:
    hidden = [address for path in answers for address in find_addresses(record, path)]
    shared = {address[0] for address, _ in find_leaves(record, question) or []}
    return hide_leaves(record, hidden, shared)


def test_the_whole_column_of_an_answer_goes() -> None:
    row = {"q": "?", "qa": {"answer": "42", "context": "c"}, "other": 1}
    assert visible(row, ["qa.answer"], "q") == {"q": "?", "other": 1}


def test_of_a_column_shared_with_the_input_only_the_answer_goes() -> None:
    row = {"qa": {"question": "?", "answer": {"text": "42", "by": "me"}}}
    assert visible(row, ["qa.answer.text"], "qa.question") == {
        "qa": {"question": "?", "answer": {"by": "me"}}
    }
    assert row["qa"]["answer"] == {"text": "42", "by": "me"}, "the row itself is left as it was"


def test_items_of_a_shared_list_keep_their_places() -> None:
    row = {"messages": [{"content": "?"}, {"content": "42", "role": "x"}, "end"]}
    assert visible(row, ["messages.1.content"], "messages.0.content") == {
        "messages": [{"content": "?"}, {"role": "x"}, "end"]
    }
    assert visible(row, ["messages.1"], "messages.0.content") == {
        "messages": [{"content": "?"}, None, "end"]
    }


def test_overlapping_answers_are_hidden_together() -> None:
    row = {"qa": {"q": "?", "answers": {"text": ["1"], "more": ["2"]}}}
    assert visible(row, ["qa.answers", "qa.answers.text"], "qa.q") == {"qa": {"q": "?"}}


def test_a_null_on_the_way_to_an_answer_hides_its_column_too() -> None:
    assert visible({"q": "?", "answers": None}, ["answers.text"], "q") == {"q": "?"}
    assert visible({"q": "?", "answers": []}, ["answers.text"], "q") == {"q": "?"}


def test_an_answer_of_another_form_than_expected_is_hidden_all_the_same() -> None:
    assert visible({"q": "?", "answers": "42"}, ["answers.text"], "q") == {"q": "?"}
    assert visible({"q": "?", "answers": {"txt": "42"}}, ["answers.text"], "q") == {"q": "?"}
    row = {"qa": {"q": "?", "answers": ["42"], "n": 1}}
    assert visible(row, ["qa.answers.text"], "qa.q") == {"qa": {"q": "?", "n": 1}}


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (None, []),
        (float("nan"), []),
        ("", [""]),
        ("x", ["x"]),
        (3, ["3"]),
        (0, ["0"]),
        (2.5, ["2.5"]),
        (True, ["True"]),
        (b"caf\xc3\xa9", ["café"]),
        (["a", None, ["b", 1]], ["a", "b", "1"]),
        ([], []),
    ],
)
def test_values_become_texts(value: Any, texts: list[str]) -> None:
    assert to_texts(value) == texts


@pytest.mark.parametrize("value", [{"a": 1}, ["x", {"a": 1}], "half \ud800", b"\xff"])
def test_objects_and_broken_text_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        to_texts(value)


def test_hints_list_nested_columns() -> None:
    names = set(list_columns(ROW))
    assert {"paper", "paper.abstract", "answers.text", "tags", "a.c.d.e"} <= names
