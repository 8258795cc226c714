"""Conversion of a source row to a text, its references and its signature: the map that Ray Data
runs over the pool.

A row with a mistake does not raise: its reason is in the column `error`. Answers are hidden from
the template before it is filled.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jinja2
import pyarrow as pa

from atgen_ray.core.hashing import hash_text
from atgen_ray.data.beside import read_context, read_fields
from atgen_ray.data.columns import (
    Address,
    find_addresses,
    find_leaves,
    hide_leaves,
    list_columns,
    restore_integers,
    to_texts,
)
from atgen_ray.data.conversations import (
    LayoutError,
    find_answers,
    is_conversation,
    is_plain,
    read_answer,
    read_question,
)
from atgen_ray.data.duplicates import sign_texts
from atgen_ray.data.size_limits import LONGEST, describe_length
from atgen_ray.models.user_template import fill_template, list_variables, tests_variable
from atgen_ray.text.conversation import MARK, Conversation

PRODUCT = {"round", "id", "input", "text", "annotator"}  # keys of a line of labeled.jsonl

# The record, or the reason why there is none, and its position: "a.jsonl line 3: ".
Row = tuple[Any, str | None, str]

# Result for a row: a text, or an error. The columns after `error` distinguish a mistake in the
# configuration, which affects every row, from a mistake in the data.
FILLED_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("content", pa.string()),  # hash of `text`
        ("references", pa.list_(pa.string())),
        ("context", pa.string()),  # JSON object of the texts beside it, where asked for
        ("fields", pa.string()),  # JSON object of the short columns, where asked for
        ("signature", pa.binary()),  # MinHash, where asked for
        ("error", pa.string()),  # why there is no text, or null
        ("parsed", pa.bool_()),  # the source gave a record
        ("absent", pa.list_(pa.string())),  # configured paths that the row lacks
        ("undefined", pa.list_(pa.string())),  # variables that failed the template
        ("defined", pa.list_(pa.string())),  # variables of the template that the row has
        # Columns that the row has, where something is absent or undefined.
        ("columns", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class RowPlan:
    """What to take from every row."""

    input: str
    references: tuple[str, ...]
    template: str
    needs_reference: bool
    signed: bool
    reference_template: str | None = None
    context: tuple[str, ...] = ()
    fields: bool = False  # keep the short columns of the row
    products: bool = False  # a row may be a line of labeled.jsonl, whose input is filled already


def fill_rows(rows: Iterable[Row], plan: RowPlan) -> pa.Table:
    """Fill the template for every row and return FILLED_SCHEMA; a row that cannot be filled has the
    reason in `error`.
    """
    filled = [_fill_row(record, error, place, plan) for record, error, place in rows]
    if plan.signed:
        # Only what comes from the row is compared: the template's own words are in every text.
        usable = [row for row in filled if row["error"] is None]
        signatures = sign_texts([row.pop("data") for row in usable])
        for row, signature in zip(usable, signatures, strict=True):
            row["signature"] = signature
    return pa.Table.from_pylist(filled, schema=FILLED_SCHEMA)


def _fill_row(record: Any, error: str | None, place: str, plan: RowPlan) -> dict[str, Any]:
    """Return one row of FILLED_SCHEMA; a signed one has the text to sign under `data`."""
    if error is None and not isinstance(record, dict):
        error = f"is of type {type(record).__name__}, expected an object with columns"
    if error is not None:
        return {"error": place + error, "parsed": False}
    if plan.products and record.keys() >= PRODUCT:
        plan = replace(
            plan,
            input="input",
            references=("text",),
            template="{{ input }}",
            reference_template=None,
        )
    row: dict[str, Any] = {"parsed": True, "error": None}
    found = {path: find_leaves(record, path) for path in (plan.input, *plan.references)}
    beside = {path: find_leaves(record, path) for path in plan.context}
    row["absent"] = [path for path, leaves in (found | beside).items() if leaves is None]
    if plan.context:
        row["context"] = read_context(beside)
    try:
        row |= _take_texts(record, {path: leaves or [] for path, leaves in found.items()}, plan)
    except _RowError as mistake:
        row |= {"error": place + str(mistake), "undefined": mistake.undefined}
    if row["absent"] or row.get("undefined"):
        row["columns"] = [name.encode("utf-8", "replace").decode() for name in list_columns(record)]
    return row


class _RowError(Exception):
    def __init__(self, reason: str, undefined: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.undefined = list(undefined)


def _take_texts(
    record: dict[str, Any], found: dict[str, list[tuple[Address, Any]]], plan: RowPlan
) -> dict[str, Any]:
    """Return the text and the references of a row. Raise _RowError if it has none."""
    asked, known, hidden = _read_conversations(record, found, plan)
    source = found[plan.input]
    # The answers must be in no column that the template can use, or the pool would hold them.
    if not source:
        raise _RowError(f"has no '{plan.input}'")
    values = [value.last_question if isinstance(value, Conversation) else value for value in asked]
    question = " ".join(filter(None, _read_texts(plan.input, values)))
    if not question.strip() and not tests_variable(plan.template, "input"):
        raise _RowError(f"'{plan.input}' is empty")
    if len(question) > LONGEST:
        raise _RowError(f"'{plan.input}' {describe_length()}")
    references = [
        text
        for path in plan.references
        for text in _read_texts(path, [value for _, value in known[path]])
        if text.strip()
    ]
    if references and plan.reference_template is not None:
        references = [
            _fill(plan.reference_template, restore_integers(record), "data.reference_template")
        ]
    if plan.needs_reference and not references:
        raise _RowError("has no reference")
    shared = {address[0] for address, _ in source}
    answers = [
        address for path in plan.references for address in find_addresses(record, path)
    ] + hidden
    columns = hide_leaves(record, answers, shared)
    # In a template that names the input's column directly, `input` is a column of that name.
    if not (
        "input" in columns and plan.input != "input" and plan.input in list_variables(plan.template)
    ):
        columns["input"] = question
    text = _fill(plan.template, columns)
    chat = asked[0] if len(asked) == 1 and isinstance(asked[0], Conversation) else None
    if chat is not None and not is_plain(chat) and _asks_input(plan):
        text = _write(chat.ask(text), plan.input)
        columns["input"] = chat.spoken
    elif text.startswith(MARK):
        raise _RowError(f"'{plan.input}' begins as conversations do inside this program")
    row = {
        "text": text,
        "content": hash_text(text),
        "references": list(dict.fromkeys(references)),
        "defined": sorted(list_variables(plan.template) & columns.keys()),
    }
    if plan.fields:
        row["fields"] = read_fields(columns, plan.input)
    if plan.signed:
        row["data"] = fill_template(plan.template, columns, literals=False)
    return row


def _asks_input(plan: RowPlan) -> bool:
    """Return whether the template takes a conversation as `input`, and not out of its column."""
    variables = list_variables(plan.template)
    return "input" in variables or plan.input.partition(".")[0] not in variables


def _write(chat: Conversation, path: str) -> str:
    """Return the canonical text of a conversation."""
    try:
        text = chat.write()
        text.encode("utf-8")
    except UnicodeError as error:
        raise _RowError(f"'{path}' is not valid Unicode") from error
    except ValueError as error:
        raise _RowError(f"'{path}' holds a number that JSON does not have") from error
    if len(text) > LONGEST:
        raise _RowError(f"'{path}' {describe_length()}")
    return text


def _read_conversations(
    record: dict[str, Any], found: dict[str, list[tuple[Address, Any]]], plan: RowPlan
) -> tuple[list[Any], dict[str, list[tuple[Address, Any]]], list[Address]]:
    """Return the values of the input, conversations among them, the answers by path, and the
    addresses of the answering turns.
    """
    path = plan.input
    try:
        asked = [
            read_question(each, _find_holder(record, at)) if is_conversation(each) else each
            for at, each in found[plan.input]
        ]
        known = dict[str, list[tuple[Address, Any]]]()
        for path in plan.references:
            known[path] = [
                (at, read_answer(each) if is_conversation(each) else each)
                for at, each in found[path]
            ]
    except LayoutError as error:
        raise _RowError(f"'{path}' {error}") from error
    chats = [
        (at, each)
        for path in (plan.input, *plan.references)
        for at, each in found[path]
        if is_conversation(each)
    ]
    return asked, known, [(*at, turn) for at, each in chats for turn in find_answers(each)]


def _find_holder(record: dict[str, Any], address: Address) -> dict[str, Any]:
    """Return the object that holds the value at `address`."""
    value: Any = record
    holder = record
    for key in address[:-1]:
        value = value[key]
        holder = value if isinstance(value, dict) else holder
    return holder


def _read_texts(path: str, values: list[Any]) -> list[str]:
    try:
        return to_texts(values)
    except UnicodeError as error:
        raise _RowError(f"'{path}' is not valid Unicode") from error
    except ValueError as error:
        raise _RowError(f"'{path}' {error}{_hint_inner(path, values)}") from error


def _hint_inner(path: str, values: list[Any]) -> str:
    """Return a hint at the key of an object that holds the text which was probably meant, or an
    empty text.
    """
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    found = next((value for value in flat if isinstance(value, dict)), {})
    inner = [str(key) for key, value in found.items() if isinstance(value, str)] or [
        str(key)
        for key, value in found.items()
        if isinstance(value, list) and all(isinstance(item, str) for item in value)
    ]
    named = next(
        (key for key in ("text", "value", "answer", "content") if key in inner),
        inner[0] if inner else None,
    )
    return f"; did you mean '{path}.{named}'?" if named else ""


def _fill(template: str, columns: dict[str, Any], key: str = "prompt.template") -> str:
    try:
        text = fill_template(template, columns)
        text.encode("utf-8")
    except jinja2.UndefinedError as error:
        undefined = sorted(list_variables(template) - columns.keys())
        raise _RowError(
            f"{key}: {error.message}", undefined if key == "prompt.template" else ()
        ) from error
    except UnicodeError as error:
        raise _RowError(f"{key} gives text that is not valid Unicode") from error
    except (
        jinja2.TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise _RowError(f"{key}: {type(error).__name__}: {error}") from error
    if not text.strip():
        raise _RowError(f"{key} gives no text")
    if len(text) > LONGEST:
        raise _RowError(f"the text that {key} gives {describe_length()}")
    return text
