"""From rows to token ids, the same for every engine."""

from dataclasses import dataclass
from typing import Any

from atgen_ray.models.prompts import OverlongPrompt, PromptBuilder


@dataclass(frozen=True)
class Prompt:
    """An example ready for the model; `sample` 0 is decoded greedily, others are drawn."""

    id: str
    sample: int
    token_ids: list[int]


def encode_rows(
    builder: "PromptBuilder", rows: list[dict[str, Any]]
) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """The prompts of `rows` (id, text, sample), and an output row with its reason for each that has
    none.
    """
    prompts = []
    failed = []
    for row in rows:
        try:
            prompts.append(Prompt(row["id"], row["sample"], builder.encode(row["text"])))
        except OverlongPrompt as error:
            failed.append(failed_row(row["id"], row["sample"], str(error)))
    return prompts, failed


def failed_row(id_: str, sample: int, reason: str) -> dict[str, Any]:
    """An output row without output."""
    return {"id": id_, "sample": sample, "error": reason}
