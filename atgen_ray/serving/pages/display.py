"""Display of a text in the form that it has: Markdown, code, JSON, a conversation, or plain text.

`show_text` returns HTML without anything active (see `markdown`). The form is set by
`annotator.display`, or guessed from the text and the name of its column; the text as it is stays
one click away.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from atgen_ray.config.annotators.people import DisplayKind
from atgen_ray.data.conversations import is_conversation
from atgen_ray.serving.pages.markdown import link_picture, render_markdown, sanitise
from atgen_ray.text.conversation import Conversation, read_conversation

LONGEST_JSON = 1_000_000  # characters that are parsed
MOST_VALUES = 5_000  # of a JSON text that is folded
DEEPEST = 40  # levels that are shown
UNFOLDED = 2  # levels that are open
LONGEST_SHOWN = 400_000  # characters of one text on a page
LOOKED_AT = 20_000  # characters that decide on the form

ROLES = "system|developer|user|human|assistant|gpt|model|tool|function|observation"
_TURN = re.compile(rf"(?:\A|\n\n)({ROLES}): ", re.IGNORECASE)
_ITEM = r"([-*+]|\d{1,3}[.)]) \S"
_MARKDOWN = (
    re.compile(r"^#{1,6} \S", re.MULTILINE),
    re.compile(r"^(```|~~~)", re.MULTILINE),
    re.compile(rf"^ {{0,3}}{_ITEM}.*\n(\s*\n)? {{0,3}}{_ITEM}", re.MULTILINE),
    re.compile(r"\*\*\S[^*\n]{0,300}\S\*\*|`[^`\n]{1,300}`"),
    re.compile(r"\[[^\]\n]{1,300}\]\(\S{1,300}\)"),
    re.compile(r"^\|?\s*:?-{3,}:?\s*\|", re.MULTILINE),
    re.compile(r"\$\$.{1,500}?\$\$|\\\(.{1,500}?\\\)|\\\[.{1,500}?\\\]", re.DOTALL),
    re.compile(r"(?<![\w$\\])\$(?!\s)[^$\n]{0,200}[\\^_{=][^$\n]{0,200}(?<!\s)\$(?![\w$])"),
)
_CODE_LINE = re.compile(
    r"^\s*(def |class |import |from \S+ import |return\b|if .*:$|for .*:$|while .*:$|#include|"
    r"using |"
    r"public |private |static |function |const |let |var |fn |func |package |SELECT |INSERT |"
    r"CREATE |UPDATE |[+-]{3} [ab]/|@@ |@\w+|//|/\*|\*/|[}\])]+[;,]?$)|[;{]\s*$|^\s+\S+\s*[-+*/]?= "
)
_CODE_COLUMN = re.compile(r"(^|_|\.)(code|snippet|program|sql|diff|patch|script)(_|$)", re.I)


@dataclass(frozen=True)
class ShownText:
    """A text in its form. `raw` is the text as it is, None where `html` shows it like that."""

    kind: DisplayKind
    html: Markup
    lang: str | None
    raw: Markup | None


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation; `parts` are texts, and values without a text."""

    role: str
    parts: tuple[Any, ...]


def show_text(
    text: str, kind: DisplayKind = "auto", column: str = "", window: int | None = None
) -> ShownText:
    """Return `text` in the form `kind`, or in the one that fits where it is `auto`.

    Args:
        column: name of its column, which helps to guess.
        window: characters that the model reads, where it does not read all of them.
    """
    if (conversation := read_conversation(text)) is not None:
        return _show_chat(conversation)
    lang = guess_language(text)
    if len(text) > LONGEST_SHOWN:
        kind = "text"
    kind = guess_kind(text, column) if kind == "auto" else kind
    raw = _cut(text, window, _show_plain)
    if kind in ("json", "conversation"):
        whole = _DRAWN[kind](text)
        if whole is not None:
            note = _tell_window(text, window, "The model's window ends before the end")
            return ShownText(kind, whole + note, lang, raw)
        kind = "text"  # it is no JSON, or holds no turns
    if kind == "text":
        return ShownText(kind, raw, lang, None)
    return ShownText(kind, _cut(text, window, _DRAWN[kind]), lang, raw)


def _show_chat(conversation: Conversation) -> ShownText:
    """Return the conversation that is the input of an example, its tools below it."""
    turns = [
        Turn(
            f"{turn.role} ({turn.name})" if turn.name else turn.role,
            (
                *([turn.content] if turn.content else []),
                *({"calls": name, "arguments": arguments} for name, arguments in turn.calls),
            ),
        )
        for turn in conversation.turns
    ]
    functions = tuple(tool["function"] for tool in conversation.tools)
    text = conversation.show()
    html = _draw_turns([*turns, *([Turn("tools", functions)] if functions else [])])
    return ShownText("conversation", html, guess_language(text), _show_plain(text))


def guess_kind(text: str, column: str = "") -> DisplayKind:
    """Return the form of a text, by its content and the name of its column."""
    head = text[:LOOKED_AT].strip()
    if head[:1] in ("{", "[") and (value := _read_json(text)) is not None:
        return "conversation" if _find_turns(value) else "json"
    if len(_TURN.findall(head)) > 1:
        return "conversation"
    if _CODE_COLUMN.search(column):
        return "code"
    if re.search(r"markdown|readme|\.md$", column, re.IGNORECASE):
        return "markdown"
    fenced = "```" in head
    lines = [line for line in head.splitlines() if line.strip()]
    coded = sum(bool(_CODE_LINE.search(line)) for line in lines)
    if not fenced and len(lines) > 2 and coded / len(lines) > 0.5:
        return "code"
    return "markdown" if any(mark.search(head) for mark in _MARKDOWN) else "text"


def guess_language(text: str) -> str | None:
    """Return the language of a text in Chinese, Japanese or Korean script, which share characters
    that are drawn differently; None for all others.
    """
    head = text[:2_000]
    kana = len(re.findall(r"[\u3040-\u30ff]", head))
    hangul = len(re.findall(r"[\uac00-\ud7af]", head))
    han = len(re.findall(r"[\u4e00-\u9fff]", head))
    if kana + hangul + han <= 0.2 * len(head):
        return None
    if kana > 0.05 * (kana + han):
        return "ja"
    return "ko" if hangul > han else "zh"


def list_turns(text: str) -> list[Turn]:
    """Return the turns of a conversation: the messages of a chat in JSON, turns of ShareGPT, or
    paragraphs that begin with a role, as the prompt has them. Empty where there are none.
    """
    value = _read_json(text) if text.lstrip()[:1] in ("{", "[") else None
    if value is not None:
        return _find_turns(value)
    places = [*_TURN.finditer(text)]
    if not places:
        return []
    before = text[: places[0].start()].strip()
    turns = [Turn("system", (before,))] if before else []
    ends = [place.start() for place in places[1:]] + [len(text)]
    for place, end in zip(places, ends, strict=True):
        turns.append(Turn(place[1], (text[place.end() : end].strip(),)))
    return turns


def _read_json(text: str) -> Any:
    """Return the value of a JSON text that is an object or a list, else None. Numbers stay as they
    were written.
    """
    if len(text) > LONGEST_JSON:
        return None
    try:
        value = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and value else None


class _Number(str):
    """A number as the text has it."""


def _find_turns(value: Any) -> list[Turn]:
    """Return the turns in a JSON value: a list of them, or an object that holds one."""
    if isinstance(value, dict):
        for key in ("messages", "conversations", "conversation", "turns", "dialogue"):
            if is_conversation(value.get(key)):
                value = value[key]
                break
    return [_read_turn(turn) for turn in value] if is_conversation(value) else []


def _read_turn(turn: Mapping[str, Any]) -> Turn:
    content = turn.get("content", turn.get("value"))
    parts = content if isinstance(content, list) else [content]
    read = [_read_part(part) for part in parts if part is not None]
    more = {key: value for key, value in turn.items() if key in ("tool_calls", "function_call")}
    return Turn(str(turn.get("role", turn.get("from"))), (*read, *([more] if more else [])))


def _read_part(part: Any) -> Any:
    """Return the text of a part of a turn, a link in the place of a picture, or the value as it
    is.
    """
    if not isinstance(part, dict):
        return part if isinstance(part, dict | list) else str(part)
    if isinstance(part.get("text"), str):
        return part["text"]
    url = part.get("image_url") or part.get("url")
    url = url.get("url") if isinstance(url, dict) else url
    return link_picture(url) if isinstance(url, str) else part


def _cut(text: str, window: int | None, draw: Callable[[str], Markup | None]) -> Markup:
    """Return a text as `draw` shows it, with a line where the model stops to read."""
    if window is None or window >= len(text):
        return draw(text) or Markup()
    rest = Markup('<div class="beyond">{}</div>').format(draw(text[window:]) or "")
    return (draw(text[:window]) or Markup()) + _tell_window(text, window) + rest


def _show_plain(text: str) -> Markup:
    return Markup("{}").format(text)


def _show_code(text: str) -> Markup:
    return Markup('<pre dir="ltr"><code>{}</code></pre>').format(text)


def _show_json(text: str) -> Markup | None:
    value = _read_json(text)
    return None if value is None else fold_json(value)


def fold_json(value: Any) -> Markup:
    """Return a JSON value with its objects and lists as parts that fold."""
    left = [MOST_VALUES]
    return sanitise(str(_fold(value, 0, left)))


def _fold(value: Any, depth: int, left: list[int]) -> Markup:
    left[0] -= 1
    if isinstance(value, _Number) or value is None or isinstance(value, bool):
        word = value if isinstance(value, _Number) else json.dumps(value)
        return Markup('<span class="number">{}</span>').format(str(word))
    if isinstance(value, str):
        return Markup('<span dir="auto">{}</span>').format(value)
    if not isinstance(value, dict | list):
        return Markup("<span>{}</span>").format(str(value))
    if depth >= DEEPEST or left[0] <= 0:
        return Markup("<code>{}</code>").format("{…}" if isinstance(value, dict) else "[…]")
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    rows = []
    for name, item in pairs:
        if left[0] <= 0:
            rows.append(Markup("<li>… and more</li>"))
            break
        row = Markup('<li><span class="member">{}</span> {}</li>')
        rows.append(row.format(str(name), _fold(item, depth + 1, left)))
    if not rows:
        return Markup("<code>{}</code>").format("{}" if isinstance(value, dict) else "[]")
    count = f"{len(pairs)} {'key' if isinstance(value, dict) else 'item'}{'s'[: len(pairs) != 1]}"
    opened = Markup(" open") if depth < UNFOLDED else Markup()
    return Markup("<details{}><summary>{}</summary><ul>{}</ul></details>").format(
        opened, count, Markup().join(rows)
    )


def _show_conversation(text: str) -> Markup | None:
    turns = list_turns(text)
    return _draw_turns(turns) if turns else None


def _draw_turns(turns: Sequence[Turn]) -> Markup:
    left = [MOST_VALUES]
    shown = [
        Markup('<div class="turn"><p class="who">{}</p>{}</div>').format(
            turn.role, Markup().join(_show_part(part, left) for part in turn.parts)
        )
        for turn in turns[:MOST_VALUES]
    ]
    return sanitise(str(Markup().join(shown)))


def _show_part(part: Any, left: list[int]) -> Markup:
    if isinstance(part, Markup):
        return Markup("<p>{}</p>").format(part)
    if not isinstance(part, str):
        return _fold(part, UNFOLDED, left)
    kind = guess_kind(part)
    if kind in ("markdown", "code"):
        return _DRAWN[kind](part) or Markup()
    return Markup('<p dir="auto">{}</p>').format(part)


def _tell_window(
    text: str, window: int | None, what: str = "The model's window ends here"
) -> Markup:
    """Return the line that says where the model stops to read; empty where it reads all."""
    if window is None or window >= len(text):
        return Markup()
    line = f"{what}: it reads {window:,} of {len(text):,} characters."
    return Markup('<span class="window">{}</span>').format(line)


_DRAWN: dict[str, Callable[[str], Markup | None]] = {
    "text": _show_plain,
    "markdown": render_markdown,
    "code": _show_code,
    "json": _show_json,
    "conversation": _show_conversation,
}
