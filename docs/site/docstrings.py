"""An extension of griffe, which reads the docstrings for the site: it shows the code of an example
as code, and gives each of several parameters that share a description a line of its own.
"""

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n((?:    .*\n|\n)*(?:    .*\n?))", re.M)
SHARED = re.compile(r"^    (\w+(?:, \w+)+): (.*)$", re.M)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value)


def rewrite(text: str) -> str:
    """Return a docstring as the parser and Markdown want it."""
    text = EXAMPLE.sub(lambda found: fence(textwrap.dedent(found[1]).strip()), text)
    return SHARED.sub(lambda found: split(found[1].split(", "), found[2]), text)


def fence(code: str) -> str:
    block = f"```python\n{code}\n```"
    return f"Example:\n{textwrap.indent(block, '    ')}\n"


def split(names: list[str], description: str) -> str:
    return "\n".join(f"    {name}: {description}" for name in names)
