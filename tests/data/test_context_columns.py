"""Columns that people see beside the input: read with the rows, kept apart, refused where they are
none or hold answers.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import CONTEXT_SCHEMA
from atgen_ray.data import SplitReader, open_split
from atgen_ray.data.in_process import reading_in_process

ROWS: list[dict[str, Any]] = [
    {"q": "one", "a": "A", "title": "T", "meta": {"year": 1999.0, "tags": ["x", "y"]}},
    {"q": "two", "a": "B", "title": None, "meta": {"year": None, "tags": []}},
    {"q": "three", "a": "C"},
]


def open_rows(folder: Path, *context: str, fields: bool = False) -> SplitReader:
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = DataConfig(pool=str(path), input="q", references="a", context=[*context])
    with reading_in_process():
        return open_split(data, PromptConfig(), "pool", 0, fields=fields)


def test_columns_are_kept_with_the_examples(tmp_path: Path) -> None:
    reader = open_rows(tmp_path, "title", "meta.year", "meta.tags", "meta")
    ((examples, _, context),) = reader.read()
    assert context.schema == CONTEXT_SCHEMA
    assert context["id"].to_pylist() == examples["id"].to_pylist()
    first, second, third = map(json.loads, context["context"].to_pylist())
    assert list(first) == ["title", "meta.year", "meta.tags", "meta"]
    assert (first["title"], first["meta.year"]) == ("T", "1999")
    assert json.loads(first["meta.tags"]) == ["x", "y"]
    assert json.loads(first["meta"])["tags"] == ["x", "y"]
    assert second.keys() <= {"meta.tags", "meta"}
    assert third == {}


def test_without_columns_nothing_is_kept(tmp_path: Path) -> None:
    ((_, _, context),) = open_rows(tmp_path).read()
    assert len(context) == 0


def test_short_columns_are_kept_without_input_and_answers(tmp_path: Path) -> None:
    ROWS.append({"q": "four", "a": "D", "long": "x" * 300, 'odd"': 1, "ok": True, "n": 1.5})
    try:
        ((_, _, context),) = open_rows(tmp_path, fields=True).read()
    finally:
        ROWS.pop()
    kept = [json.loads(fields) for fields in context["fields"].to_pylist()]
    assert kept == [{"title": "T", "meta.year": 1999}, {}, {}, {"ok": "true", "n": 1.5}]
    assert context["context"].null_count == 4


def test_a_column_that_no_row_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.context names 'titel'.*did you mean 'title'"):
        open_rows(tmp_path, "titel")


@pytest.mark.parametrize("path", ["a", "a.text"])
def test_answers_do_not_stand_beside_the_input(path: str) -> None:
    with pytest.raises(ValidationError, match="holds the answers"):
        DataConfig(pool="p.jsonl", references="a", context=[path])
