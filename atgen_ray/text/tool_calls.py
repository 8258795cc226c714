"""Calls of tools in texts: in the forms that chat templates teach, and as canonical JSON.

A call is a pair of a name and its arguments, a JSON value.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from atgen_ray.core.strict_json import encode_json

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
_TAGGED = re.compile(rf"{OPENING}\s*(.*?)\s*(?:{CLOSING}|$)", re.DOTALL)
_MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)

Call = tuple[str, Any]


def find_calls(text: str) -> list[Any] | None:
    """Return the calls in `text` as [name, arguments] pairs; None if it holds no such JSON.

    The calls stand between Hermes' tags, in a fence, or bare; all tags of a text are read.
    """
    if OPENING in text:
        found = [_find_json(each) for each in _TAGGED.findall(text)]
        return None if None in found else [call for each in found for call in each or ()]
    return _find_json(text)


def _find_json(text: str) -> list[Any] | None:
    fenced = _FENCE.search(text)
    body = fenced[1] if fenced else text
    start = min((at for at in (body.find("["), body.find("{")) if at >= 0), default=-1)
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(body[start:])
        return [_read_call(call) for call in (value if isinstance(value, list) else [value])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_call(call: Any) -> Any:
    if not isinstance(call, dict):
        raise TypeError("no object")
    call = call.get("function", call)
    arguments = call.get("arguments", call.get("parameters", {}))
    return [call["name"], json.loads(arguments) if isinstance(arguments, str) else arguments]


def split_calls(
    text: str, names: Collection[str], beside_text: bool = False
) -> tuple[str, list[Call]]:
    """Return the content of an answer and its calls, in the form of any of the templates.

    Args:
        names: the tools that may be called. A text with a call of another, or none, is content.
        beside_text: bare calls may stand on the last line, below the content, as `write_calls`
            has them.
    """
    if OPENING in text:
        found = [call for each in _TAGGED.findall(text) for call in _find_json(each) or []]
        content = _TAGGED.sub("", text).strip()
    else:
        bare = text.strip()
        for mark in _MARKS:
            bare = bare.removeprefix(mark).strip()
        content, last = _part(bare) if beside_text else ("", bare)
        found = (_find_json(last) or []) if last.startswith(("{", "[")) else []
    if not found or not all(isinstance(name, str) and name in names for name, _ in found):
        return text, []
    return content, [(name, arguments) for name, arguments in found]


def _part(text: str) -> tuple[str, str]:
    """Return what stands before bare calls, and the calls: the whole text, or its last line."""
    if text.startswith(("{", "[")):
        return "", text
    before, _, last = text.rpartition("\n")
    return before.strip(), last


def write_calls(calls: Sequence[Call], content: str = "") -> str:
    """Return an answer with calls as canonical text: one object, or a list of them, on the last
    line. Equal calls have equal texts.
    """
    written = [
        f'{{"name": {encode_json(name)}, "arguments": {encode_json(arguments)}}}'
        for name, arguments in calls
    ]
    line = written[0] if len(written) == 1 else f"[{', '.join(written)}]"
    return f"{content.strip()}\n{line}" if content.strip() else line


def normalise_calls(text: str, names: Collection[str]) -> str:
    """Return an answer with its calls as canonical text; one without calls as it is."""
    content, calls = split_calls(text, names, beside_text=True)
    return write_calls(calls, content) if calls else text
