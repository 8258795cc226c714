"""Outputs of the model for the test examples after a round, page by page, with input, references
and scores.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from atgen_ray.core.errors import UserError
from atgen_ray.reporting.examples import read_scores
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.text.conversation import show_example

Order = Literal["worst", "best", "source"]
PAGE_ROWS = 20


@dataclass(frozen=True)
class Generation:
    """One output of the model; `scores` holds the metrics that have a number."""

    id: str
    text: str
    references: list[str]
    prediction: str
    scores: dict[str, float]


@dataclass(frozen=True)
class GenerationPage:
    """Rows of one page of `pages`, counted from 1, and the rounds that have some."""

    rows: list[Generation]
    round: int
    rounds: list[int]
    order: Order
    page: int
    pages: int
    count: int


def read_generations(
    folder: RunFolder,
    metric: str | None,
    round: int | None = None,
    order: Order = "worst",
    page: int = 1,
) -> GenerationPage | None:
    """Return a page of the outputs after `round`, by default the last one; None while no round has
    any.

    Rows are ordered by their score in `metric`, ties and unscored ones by id. A page after the last
    is the last.

    Raises:
        UserError: the round has no predictions.
    """
    found = [
        int(name) for path in folder.list("rounds") if (name := path.rpartition("/")[2]).isdigit()
    ]
    rounds = sorted(number for number in found if folder.exists(_file(number)))
    if not rounds:
        return None
    chosen = rounds[-1] if round is None else round
    if chosen not in rounds:
        raise UserError(
            f"round is {chosen}, expected one that was evaluated: {', '.join(map(str, rounds))}"
        )
    rows = [row for row in folder.read_jsonl(_file(chosen)) if row["split"] == "test"]
    if order != "source":
        # Unscored rows get infinity and stand last in either order.
        sign = -1 if order == "best" else 1
        scores = read_scores(rows).get(metric or "", {})
        rows.sort(key=lambda row: (sign * scores.get(row["id"], math.inf), row["id"]))
    pages = max(1, math.ceil(len(rows) / PAGE_ROWS))
    page = min(page, pages)
    shown = rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    texts = _read_texts(folder) if shown else {}
    return GenerationPage(
        [_build(row, texts) for row in shown], chosen, rounds, order, page, pages, len(rows)
    )


def _build(row: dict[str, Any], texts: dict[str, str]) -> Generation:
    scores = {name: values[row["id"]] for name, values in read_scores([row]).items()}
    references = [str(reference) for reference in row.get("references") or []]
    return Generation(
        row["id"], texts.get(row["id"], ""), references, str(row["prediction"]), scores
    )


def _read_texts(folder: RunFolder) -> dict[str, str]:
    if not folder.exists("test.parquet"):
        return {}
    table = folder.read_table("test.parquet", ["id", "text"])
    texts = map(show_example, table["text"].to_pylist())
    return dict(zip(table["id"].to_pylist(), texts, strict=True))


def _file(round: int) -> str:
    return f"{round_folder(round)}/predictions.jsonl"
