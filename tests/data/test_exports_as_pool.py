"""Exports of Argilla, Label Studio and Prodigy as the pool of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data import Split, build_split
from atgen_ray.data.column_guess import guess_columns
from atgen_ray.data.in_process import reading_in_process

RESULT = {"from_name": "label", "to_name": "text", "type": "textarea"}
ARGILLA = [
    {
        "id": str(at),
        "fields": {"text": f"text {at}"},
        "responses": {"label": [{"value": f"label {at}", "user_id": "u"}]} if at else {},
        "suggestions": {},
        "status": "pending",
    }
    for at in range(2)
]
STUDIO = [
    {
        "id": at,
        "data": {"text": f"text {at}"},
        "annotations": [{"result": [RESULT | {"value": {"text": [f"label {at}"]}}]}] if at else [],
    }
    for at in range(2)
]
PRODIGY = [
    {"text": f"text {at}", "_task_hash": at} | ({"user_input": f"label {at}"} if at else {})
    for at in range(2)
]


def read(path: Path, **keys: Any) -> Split:
    off: Any = {"action": "off"}
    with reading_in_process():
        data = DataConfig(pool=str(path), duplicates=off, **keys)
        return build_split(data, PromptConfig(), "pool", 0)


@pytest.mark.parametrize(
    ("rows", "tool", "keys"),
    [
        (ARGILLA, "Argilla", ("fields.text", "responses.label.value")),
        (STUDIO, "Label Studio", ("data.text", "annotations.result.value.text")),
        (PRODIGY, "Prodigy", ("text", "user_input")),
    ],
)
def test_an_export_is_a_pool_and_a_wrong_column_names_the_right_ones(
    tmp_path: Path, rows: list[dict[str, Any]], tool: str, keys: tuple[str, str]
) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(rows))
    guess = guess_columns(rows)
    assert (guess.input, guess.answer) == keys
    split = read(path, input=keys[0], references=keys[1])
    assert split.examples["text"].to_pylist() == ["text 0", "text 1"]
    assert split.gold["references"].to_pylist() == [["label 1"]]
    with pytest.raises(UserError) as refusal:
        read(path)
    assert f"; this is an export of {tool}, whose data.input is one of {keys[0]}" in str(
        refusal.value
    )
    assert "\n" not in str(refusal.value)
