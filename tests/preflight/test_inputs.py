"""Data, prompts and metrics, tried on a few rows before a run begins."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command_line import SMALLEST

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.data import build_split
from atgen_ray.preflight import Inputs, Setting
from atgen_ray.preflight.columns import check_columns
from atgen_ray.preflight.inputs import check_data, check_metrics, check_prompts, find_notes
from atgen_ray.preflight.rivals import check_rivals

ROWS = [
    {"input": f"Sort the words number {index} please", "answer": f"word {index}"}
    for index in range(6)
]


def write_rows(path: Path, rows: Any = ROWS) -> str:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configure(pool: str, **sections: Any) -> RunConfig:
    """The smallest configuration over `pool` with some sections of its own."""
    data = {"pool": pool, "references": "answer"} | sections.pop("data", {})
    return parse_config(SMALLEST | sections | {"data": data})


def look(check: Any, config: RunConfig) -> list[str]:
    """The lines of one check."""
    return list(check(Setting(config), inputs=Inputs(config)))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved"])
def test_small_files_are_read_here_as_ray_reads_them(
    kind: str, tmp_path: Path, ray_session: None
) -> None:
    table = pa.Table.from_pylist([*ROWS, {"input": "", "answer": "nothing"}])
    location = tmp_path / f"pool.{kind}"
    if kind == "parquet":
        pq.write_table(table, location)
    elif kind == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, location)
    elif kind == "jsonl":
        write_rows(location, table.to_pylist())
    else:
        from datasets import Dataset

        Dataset.from_list(table.to_pylist()).save_to_disk(str(location))
    config = configure(str(location))
    here = Inputs(config, duplicates=True).pool
    there = build_split(config.data, config.prompt, "pool", config.seed)
    assert here is not None
    assert here.examples.equals(there.examples)
    assert here.gold.equals(there.gold)
    assert here.dead == there.dead
    assert len(here.dead) == 1


def test_wrong_names_are_told_all_at_once(tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.jsonl")
    config = configure(
        str(tmp_path / "missing.jsonl"), data={"test": test, "test_references": "anser"}
    )
    lines = look(check_data, config)
    assert lines[0].startswith(
        f"data.pool is '{tmp_path}/missing.jsonl', expected an existing file"
    )
    assert lines[1].endswith("did you mean 'answer'?")
    config = configure(
        write_rows(tmp_path / "pool.jsonl"), prompt={"template": "{{ input }} in {{ langage }}"}
    )
    assert look(check_data, config)[0].startswith("prompt.template names 'langage'")


def test_large_and_distant_data_is_left_to_ray(tmp_path: Path) -> None:
    large = tmp_path / "large.jsonl"
    with large.open("w") as file:
        file.truncate(9 << 20)
    for pool in (str(large), "s3://bucket/pool.jsonl", "some/dataset"):
        inputs = Inputs(configure(pool))
        assert inputs.pool is None
        assert inputs.problems == []


def test_prompts_are_tried_with_the_tokenizer(tiny_model: str, tmp_path: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl")
    right = {"id": tiny_model, "max_prompt_tokens": 80}
    assert look(check_prompts, configure(pool, model=right)) == []
    (line,) = look(check_prompts, configure(pool, model=right | {"max_prompt_tokens": 3}))
    assert line.startswith("model.max_prompt_tokens is 3, but the system turn")
    (line,) = look(
        check_prompts,
        configure(pool, model=right | {"max_prompt_tokens": 36}, prompt={"overlong": "reject"}),
    )
    assert line.startswith(
        "model.max_prompt_tokens is 36, which none of the first 6 examples keeps within"
    )


def test_models_that_are_instructed_need_a_chat_template(tiny_model: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    pool, base = write_rows(tmp_path / "pool.jsonl"), tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    (base / "config.json").write_text((Path(tiny_model) / "config.json").read_text())
    annotator = {"type": "model", "model": {"id": str(base)}, "guidelines": "Sort."}
    model = {"id": str(base), "max_prompt_tokens": 80}
    (line,) = look(check_prompts, configure(pool, model=model, annotator=annotator))
    assert line.startswith(f"annotator.model.id is '{base}', whose tokenizer has no chat template")
    shown = annotator | {"examples": [{"input": "b a", "output": "a b"}]}
    assert look(check_prompts, configure(pool, model=model, annotator=shown)) == []


def test_metrics_are_tried_on_the_answers(tmp_path: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl")
    assert look(check_metrics, configure(pool)) == []
    (line,) = look(
        check_metrics,
        configure(pool, evaluation={"metrics": ["rougeL", "tool_calls", "math_equal"]}),
    )
    assert line.startswith(
        "evaluation.metrics holds 'tool_calls', which fails on the answers of this dataset: refere"
    )


def test_a_run_without_evaluation_is_told(tmp_path: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl")
    (note,) = find_notes(configure(pool), None)
    assert "nothing will be evaluated" in note
    (note,) = find_notes(configure(pool, evaluation={"dev_fraction": 0.2}), None)
    assert "only the dev split" in note
    assert find_notes(configure(pool), pa.table({"id": ["a"]})) == []
    full = configure(pool, training={"method": "full", "rank": 8})
    (note,) = find_notes(full, pa.table({"id": ["a"]}))
    assert note == "training.method is 'full', which has no adapter: training.rank has no effect"


def test_rivals_that_cannot_be_scored_are_told(tmp_path: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl")
    few = {"type": "few_shot", "k": 3}
    short = configure(
        pool, evaluation={"rivals": [few], "dev_fraction": 0.5}, stopping={"labels": 2}
    )
    assert look(check_rivals, short) == [
        "evaluation.rivals.0.k is 3, expected at most the 2 labels that the run buys"
    ]
    assert look(check_rivals, configure(pool, evaluation={"rivals": ["knn"]})) == [
        "evaluation.rivals is given, but nothing is evaluated: expected data.test, "
        "evaluation.audit or evaluation.dev_fraction beside it"
    ]
    assert look(check_rivals, configure(pool)) == []


def test_a_column_that_no_row_has_is_told_before_anything_is_paid(tmp_path: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl", [row | {"topic": "a"} for row in ROWS])
    selection = {"strategy": "task_diversity", "parameters": {"column": "tpoic"}}
    first = {"strategy": "task_diversity", "parameters": {"column": "topic"}}
    wrong = configure(
        pool, selection=selection | {"first": first}, evaluation={"audit": {"column": "source"}}
    )
    lines = look(check_columns, wrong)
    assert [line.partition(",")[0] for line in lines] == [
        "evaluation.audit.column is 'source'",
        "selection.parameters.column is 'tpoic'",
    ]
    assert lines[1].endswith("a column of the pool with short values; did you mean 'topic'?")
    right = configure(pool, selection=first)
    assert look(check_columns, right) == []
    assert look(check_columns, configure(pool)) == []
