"""Gold items of a run: their file, and their tasks, which look like any other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from atgen_ray.annotation.human.exchange.label_files import read_rows
from atgen_ray.annotation.human.gold import has_gold
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import digest, digest_number
from atgen_ray.store.tables import tasks

EVERYBODY = 1_000_000  # answers that a gold item wants
LIKE = 200  # tasks whose ids, places and reasons gold items are made like


@dataclass(frozen=True)
class GoldItem:
    """An input with its right answers, of which any will do; a draft, why it is so, and the other
    columns of its row.
    """

    input: str
    texts: tuple[str, ...]
    draft: str | None = None
    explanation: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def read_gold(file: str, called: str) -> list[GoldItem]:
    """Read gold items from a `.csv`, `.jsonl` or `.parquet` file: input and text (the right
    answer), and draft and explanation where there are; several rows of one input hold several right
    answers.

    Raises:
        UserError: it cannot be read, or a row is no gold item; `called` is how the message begins.
    """
    found: dict[str, GoldItem] = {}
    for place, row in enumerate(read_rows(Path(file), called), 1):
        names = ("input", "text", "draft", "explanation")
        given = dict[str, Any]()
        if isinstance(row, dict):
            given = {name: row[name] for name in names if row.get(name) is not None}
        texts = all(isinstance(value, str) for value in given.values())
        if not given.get("input") or not given.get("text") or not texts:
            raise UserError(
                f"{called}, row {place}, expected texts under the names input and text, and draft "
                f"and explanation where there are"
            )
        known = found.get(given["input"])
        found[given["input"]] = GoldItem(
            given["input"],
            (*(known.texts if known else ()), given["text"]),
            given.get("draft") or (known.draft if known else None),
            given.get("explanation") or (known.explanation if known else None),
            {name: value for name, value in row.items() if isinstance(value, str)},
        )
    if not found:
        raise UserError(f"{called}, which holds no row, expected gold items")
    return list(found.values())


def check_gold(config: HumanAnnotatorConfig, key: str) -> None:
    """Check that the gold items of an annotator can be read, and that the quiz has enough of them.

    Raises:
        UserError: they cannot, or there are fewer than the quiz asks for.
    """
    if config.gold.file is None:
        return
    items = read_gold(config.gold.file, f"{key}.gold.file is '{config.gold.file}'")
    if len(items) < config.gold.quiz:
        raise UserError(
            f"{key}.gold.quiz is {config.gold.quiz}, expected no more than the {len(items)} inputs "
            f"in {key}.gold.file"
        )


def publish_gold(
    connection: sa.Connection,
    run: str,
    config: HumanAnnotatorConfig,
    ids: Sequence[str],
    now: float,
) -> int:
    """Insert the gold items of a run beside its first tasks, unless they are there; return how many
    were new.

    Args:
        ids: of the pool's examples, which no gold item must have.
    """
    here = tasks.c.run == run
    if config.gold.file is None or has_gold(connection, run):
        return 0
    like = connection.execute(
        sa.select(tasks).where(here & (tasks.c.state == "open")).order_by(tasks.c.rank).limit(LIKE)
    ).mappings()
    models = like.all()
    if not models:
        return 0
    items = read_gold(config.gold.file, f"annotator.gold.file is '{config.gold.file}'")
    used = {*ids, *connection.execute(sa.select(tasks.c.example_id).where(here)).scalars()}
    rows = []
    for place, item in enumerate(items):
        model = models[digest_number(run, item.input, size=8) % len(models)]
        id_ = _imitate(model["example_id"], f"{run}\n{item.input}", used)
        used.add(id_)
        suggestion = model["suggestion"]
        if suggestion is not None:
            # Without a draft of its own, that of another item: who takes it unread is seen.
            other = items[(place + 1) % len(items)].texts[0]
            suggestion = suggestion | {"text": item.draft or other}
        rows.append(
            {
                "run": run,
                "example_id": id_,
                "round": model["round"],
                "rank": model["rank"],
                "wanted": EVERYBODY,
                "state": "open",
                "input": item.input,
                "suggestion": suggestion,
                "why": model["why"],
                "context": _choose_columns(item, model["context"]),
                "changed": now,
                "gold": {"texts": list(item.texts), "explanation": item.explanation},
            }
        )
    connection.execute(sa.insert(tasks), rows)
    return len(rows)


def _choose_columns(
    item: GoldItem, like: Sequence[tuple[str, str]] | None
) -> list[tuple[str, str]] | None:
    """Return the columns beside the input that other tasks have, with the texts of the item."""
    if like is None:
        return None
    return [(name, item.columns.get(name, "")) for name, _ in like]


def _imitate(id_: str, seed: str, used: set[str]) -> str:
    """Return an id that is none of `used` and looks like `id_`: hexadecimal digits of that length,
    or the same with other decimal digits.
    """
    for turn in range(100):
        drawn = digest(seed, str(turn), size=32)
        made = drawn[: len(id_)]
        if not re.fullmatch(r"[0-9a-f]{16,64}", id_):
            numbers = str(int(drawn, 16))[1:]
            digits = re.findall(r"\d", id_)
            parts = re.split(r"\d", id_)
            fresh = numbers[: len(digits)].ljust(len(digits), "0")
            made = "".join(
                f"{part}{digit}" for part, digit in zip(parts, [*fresh, ""], strict=True)
            )
        if made not in used:
            return made
    return digest(seed, size=16)
