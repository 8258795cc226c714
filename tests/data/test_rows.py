"""From a row to its text and references, without Ray."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.data.rows import RowPlan, fill_rows


def fill(
    record: Any, template: str = "{{ input }}", references: Any = ("a",), **keys: Any
) -> dict[str, Any]:
    defaults = {"input": "q", "needs_reference": False, "signed": False}
    plan = RowPlan(template=template, references=tuple(references), **{**defaults, **keys})
    return fill_rows([(record, None, "")], plan).to_pylist()[0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "has no 'q'"),
        ({"Q": "x"}, "has no 'q'"),
        ({"q": None}, "'q' is empty"),
        ({"q": ""}, "'q' is empty"),
        ({"q": " \n\t"}, "'q' is empty"),
        ({"q": []}, "'q' is empty"),
        ({"q": [None, "", " "]}, "'q' is empty"),
        ({"q": float("nan")}, "'q' is empty"),
        (
            {"q": {"text": "x"}},
            "'q' is an object, expected text, a number or a list of them; did you mean 'q.text'?",
        ),
        (
            {"q": [{"text": "x"}]},
            "'q' is an object, expected text, a number or a list of them; did you mean 'q.text'?",
        ),
        ({"q": "half \ud800"}, "'q' is not valid Unicode"),
        ({"q": b"\xff\xfe"}, "'q' is not valid Unicode"),
        ({"q": "x", "a": "half \udfff"}, "'a' is not valid Unicode"),
        (
            {"q": "x", "a": {"text": "y"}},
            "'a' is an object, expected text, a number or a list of them; did you mean 'a.text'?",
        ),
        ([1, 2], "is of type list, expected an object with columns"),
        ("text", "is of type str, expected an object with columns"),
        (None, "is of type NoneType, expected an object with columns"),
        (7, "is of type int, expected an object with columns"),
    ],
)
def test_a_bad_row_says_what_is_wrong_with_it(record: Any, reason: str) -> None:
    row = fill(record)
    assert row["error"] == reason
    assert row["text"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (3, "3"),
        (0, "0"),
        (2.5, "2.5"),
        (["to", "be", "", None, "or"], "to be or"),
        (False, "False"),
    ],
)
def test_inputs_of_every_kind(value: Any, text: str) -> None:
    assert fill({"q": value})["text"] == text


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("x", ["x"]),
        (42, ["42"]),
        (51.0, ["51"]),
        (-0.0, ["0"]),
        (51.25, ["51.25"]),
        (1e300, ["1e+300"]),
        ([51.0, None, 2.5], ["51", "2.5"]),
        (None, []),
        ("", []),
        ([], []),
        ([None, "", " "], []),
        (["b", "a", "b", 1, None], ["b", "a", "1"]),
        (" kept as it is ", [" kept as it is "]),
    ],
)
def test_references_of_every_kind(answer: Any, references: list[str]) -> None:
    assert fill({"q": "x", "a": answer})["references"] == references


def test_references_from_several_columns_and_lists_of_objects() -> None:
    record = {
        "q": "x",
        "gold": {"answers": [{"text": "b"}, {"text": "a"}]},
        "alias": ["a", "c"],
        "more": None,
    }
    row = fill(record, references=["gold.answers.text", "alias", "more", "missing"])
    assert row["references"] == ["b", "a", "c"]
    assert row["error"] is None
    assert row["absent"] == ["missing"]


def test_a_row_without_references_is_fine_unless_they_are_needed() -> None:
    assert fill({"q": "x"}, references=[])["error"] is None
    assert fill({"q": "x"})["error"] is None
    assert fill({"q": "x", "a": [""]}, needs_reference=True)["error"] == "has no reference"


def test_the_template_sees_other_columns_but_no_answers() -> None:
    record = {"q": "x", "a": "gold", "title": "T", "meta": {"year": 1999}}
    assert fill(record, "{{ title }} {{ meta.year }}: {{ input }} {{ q }}")["text"] == "T 1999: x x"
    for attempt in ("{{ a }}", "{{ input }}{{ a }}", "{% if a %}y{% endif %}"):
        row = fill(record, attempt)
        assert row["error"] == "prompt.template: 'a' is undefined"
        assert row["undefined"] == ["a"]


def test_a_column_shared_with_the_input_stays_without_its_answer() -> None:
    record = {"chat": [{"role": "user", "text": "hi"}, {"role": "bot", "text": "GOLD"}]}
    keys = {"input": "chat.0.text", "references": ["chat.1.text"]}
    row = fill(record, "{{ input }} {{ chat }}", **keys)
    assert row["references"] == ["GOLD"]
    assert "GOLD" not in row["text"]
    assert "bot" in row["text"]
    assert "no attribute 'text'" in fill(record, "{{ chat[1].text }}", **keys)["error"]


def test_a_data_error_inside_the_template_is_that_rows_alone() -> None:
    assert fill({"q": "x", "n": 0}, "{{ 1 / n }}")["error"].startswith(
        "prompt.template: ZeroDivisionError"
    )
    assert fill({"q": "x", "n": "a"}, "{{ n + 1 }}")["error"].startswith(
        "prompt.template: TypeError"
    )
    assert fill({"q": "x"}, "  {# nothing #} ")["error"] == "prompt.template gives no text"
    assert (
        fill({"q": "x", "t": "\ud800"}, "{{ t }}")["error"]
        == "prompt.template gives text that is not valid Unicode"
    )


def test_names_of_columns_cannot_break_a_row() -> None:
    record = {
        "q": "x",
        "self": 1,
        "loop": 2,
        "caller": 3,
        "input": "mine",
        "\ud800": 1,
        "": 0,
        "a.b": 5,
    }
    assert fill(record, "{{ input }}")["text"] == "x"
    assert fill({"\ud800": 1})["columns"] == ["?"]


def test_the_signature_ignores_what_all_rows_share() -> None:
    long = "Read the text below with great care and then answer in one single word. " * 5
    rows = [
        ({"q": "apples and pears and plums"}, None, ""),
        ({"q": "the sea is wide and deep"}, None, ""),
    ]
    plan = RowPlan("q", (), long + "{{ input }}", needs_reference=False, signed=True)
    first, second = (row["signature"] for row in fill_rows(rows, plan).to_pylist())
    shared = sum(first[at : at + 4] == second[at : at + 4] for at in range(0, len(first), 4))
    assert shared == 0


def values(letters: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaf = st.one_of(st.none(), st.integers(-5, 5), st.floats(), letters, st.booleans())
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3),
        max_leaves=8,
    )


value = values(st.text(max_size=5))
name = st.sampled_from(["q", "a", "b", "q.x", "a.x", "", "input"])
path = st.sampled_from(["q", "a", "b", "q.x", "a.x", "a.0", "b.x.0", "input", ""])


@given(
    record=st.dictionaries(name, value, max_size=5),
    question=path,
    answers=st.lists(path, max_size=3),
    test=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_any_row_gives_a_text_or_a_reason(
    record: dict[str, Any], question: str, answers: list[str], test: bool
) -> None:
    row = fill(record, input=question, references=answers, needs_reference=test, signed=True)
    assert (row["error"] is None) == (row["text"] is not None) == (row["signature"] is not None)
    assert row["error"] is not None or row["text"].strip()
    assert not (test and row["error"] is None and not row["references"])


SECRET = st.text(
    alphabet="αβγδ", min_size=3, max_size=8
)  # letters that nothing else in the row uses


@given(
    secrets=st.lists(SECRET, min_size=1, max_size=4),
    shape=st.sampled_from(["list", "other", "dict", "objects", "shared", "shared-list"]),
    noise=st.dictionaries(
        st.sampled_from(["title", "n", "tags"]), values(st.sampled_from("xyz")), max_size=3
    ),
)
@settings(max_examples=200, deadline=None)
def test_no_answer_reaches_a_text(secrets: list[str], shape: str, noise: dict[str, Any]) -> None:
    rows: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        "other": ("q", ["b", "a.text"], {"q": "why", "b": secrets, "a": {"word": secrets}}),
        "list": ("q", ["a"], {"q": "why", "a": secrets}),
        "dict": ("q", ["a.text"], {"q": "why", "a": {"text": secrets, "copy": secrets}}),
        "objects": ("q", ["a.text"], {"q": "why", "a": [{"text": secret} for secret in secrets]}),
        "shared": ("r.q", ["r.a"], {"r": {"q": "why", "a": secrets, "n": 1}}),
        "shared-list": (
            "r.0",
            [f"r.{at + 1}" for at in range(len(secrets))],
            {"r": ["why", *secrets]},
        ),
    }
    question, answers, record = rows[shape]
    everything = "{{ input }}" + "".join(
        f"{{% if {column} is defined %}}{{{{ {column} }}}}{{% endif %}}"
        for column in ("q", "a", "r", "title", "n", "tags")
    )
    row = fill({**noise, **record}, everything, references=answers, input=question, signed=True)
    if row["error"] is None:
        assert row["references"] == list(dict.fromkeys(secrets))
        shown = json.dumps(
            {key: str(part) for key, part in row.items() if key != "references"}, ensure_ascii=False
        )
        assert not any(secret in shown for secret in secrets)
    else:
        assert not any(secret in row["error"] for secret in secrets)
