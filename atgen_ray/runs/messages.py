"""Labels as chats, in OpenAI's format for fine-tuning."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def write_messages(
    rows: Iterable[Mapping[str, Any]], system: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a chat for each label: the system turn where there is one, the whole user turn, and
    the label as the answer.

    Args:
        rows: with `input` and `text`.
        system: prompt.system of the run.
    """
    first = [] if system is None else [{"role": "system", "content": system}]
    for row in rows:
        asked = {"role": "user", "content": row["input"]}
        answered = {"role": "assistant", "content": row["text"]}
        yield {"messages": [*first, asked, answered]}
