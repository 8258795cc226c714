"""What is to be taken out of values, rows and texts.

A `Redaction` says it in three ways: rows that are keyed by an example (`ids`), a name that becomes
a pseudonym (`rename`), and `needles`, the texts themselves, wherever nothing says whose they are.
Rows of other examples that have the same text are never changed, only counted.
"""

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

SHORTEST = 16  # characters of a text that is looked for where no id says whose it is
GONE = "[deleted]"


@dataclass(frozen=True)
class Rename:
    """A person's name and the pseudonym that takes its place."""

    name: str
    pseudonym: str

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w){re.escape(self.name)}(?!\w)")

    def exact(self, text: str) -> str:
        """Change a value that is the name, also as an annotator (`human/NAME`)."""
        if text in (self.name, f"human/{self.name}"):
            return f"{text[: len(text) - len(self.name)]}{self.pseudonym}"
        return text

    def words(self, text: str) -> str:
        """Change the name wherever it stands as a word of its own."""
        return self._word.sub(self.pseudonym, text) if self.name in text else text


@dataclass(frozen=True)
class Redaction:
    """What goes.

    Attributes:
        ids: examples that go, or whose label by `annotator` goes.
        annotator: None where the whole examples go.
        contents: content hashes that no other example has.
        texts: what the examples said and what was said of them.
        rename: a person, in place of all that.
    """

    ids: frozenset[str] = frozenset()
    annotator: str | None = None
    contents: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    rename: Rename | None = None
    needles: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        long = {text.strip() for text in self.texts if len(text.strip()) >= SHORTEST}
        # The longest first: a text may be a part of another.
        object.__setattr__(self, "needles", tuple(sorted(long, key=lambda t: (-len(t), t))))

    @property
    def whole(self) -> bool:
        """Return whether the examples themselves go, not only a label."""
        return self.annotator is None

    def covers_label(self, row: dict[str, Any]) -> bool:
        """Return whether a row with the keys id and annotator is a label that goes."""
        return row.get("id") in self.ids and self.annotator in (None, row.get("annotator"))

    def clean(self, text: str) -> str:
        """Return an unkeyed text without what goes."""
        if self.rename is not None:
            return self.rename.words(text)
        for needle in self.needles:
            text = text.replace(needle, GONE)
        return text

    def clean_json(self, value: Any) -> Any:
        """Return an unkeyed JSON value without what goes."""
        return change_strings(value, self.clean)

    def rename_json(self, value: Any) -> Any:
        """Return a JSON value in which each string that is the person's name is the pseudonym."""
        return value if self.rename is None else change_strings(value, self.rename.exact)

    @cached_property
    def spelled(self) -> tuple[str, ...]:
        """Return the needles, or the name, in the spellings that files have."""
        plain = (self.rename.name,) if self.rename else self.needles
        found = []
        for text in plain:
            found += [text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
            found += [html.escape(text), html.escape(text, quote=False)]
        return tuple(dict.fromkeys(found))

    def stands_in(self, text: str) -> bool:
        """Return whether the text has something of what goes, in any spelling."""
        return any(spelled in text for spelled in self.spelled)


def change_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with `change` applied to every string in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [change_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(str(key)): change_strings(item, change) for key, item in value.items()}
    return value


def list_strings(value: Any) -> Iterable[str]:
    """Yield every string of a JSON value but its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from list_strings(item)
