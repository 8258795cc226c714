"""The target: prompts without answers, in the form of the pool, and what a run makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.data import build_split
from atgen_ray.data.in_process import reading_in_process

ROWS = [{"q": "a b"}, {"q": "a b"}, {"q": ""}, {"q": "c", "a": "an answer that nobody needs"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "target.csv").write_text("q,a\na b,\nc,x\n")
    (tmp_path / "pool.jsonl").write_text('{"q": "a b", "a": "1"}\n{"q": "z", "a": "2"}\n')
    return tmp_path


def read(folder: Path, name: str, **data: Any) -> Any:
    config = DataConfig(
        pool=str(folder / "pool.jsonl"),
        target=str(folder / name),
        input="q",
        references="a",
        merge_repeats=True,
        **data,
    )
    with reading_in_process():
        return build_split(config, PromptConfig(template="Say: {{ input }}"), "target", 0)


def test_prompts_need_no_answers_and_count_as_often_as_they_come(folder: Path) -> None:
    target = read(folder, "target.jsonl")
    assert target.examples["text"].to_pylist() == ["Say: a b", "Say: a b", "Say: c"]
    assert target.gold.num_rows == 0
    assert [letter.id for letter in target.dead] == ["target-row-2"]
    assert len(set(target.examples["id"].to_pylist())) == 3
    assert read(folder, "target.csv").examples["text"].to_pylist() == ["Say: a b", "Say: c"]
    assert len(read(folder, "target.jsonl", target_split="train[:1]").examples) == 1


def test_a_limit_of_the_pool_is_none_of_the_target(folder: Path) -> None:
    assert len(read(folder, "target.jsonl", limit=1, test_limit=1).examples) == 3


def test_mistakes_name_the_key(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.target is '.*none.jsonl'"):
        read(folder, "none.jsonl")
    (folder / "wrong.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(UserError, match=r"data.input names 'q', a column that no row"):
        read(folder, "wrong.jsonl")


def config(**settings: Any) -> Any:
    tree: dict[str, Any] = {
        "data": {"pool": "pool.jsonl", "references": "a"},
        "model": {"id": "m"},
    }
    return parse_config(tree | settings)


@pytest.mark.parametrize(
    ("selection", "key"),
    [
        ({"strategy": "rds_plus"}, "selection.strategy is 'rds_plus'"),
        (
            {"first": {"strategy": "targeted_facility_location"}},
            "selection.first.strategy is 'targeted_facility_location'",
        ),
        (
            {"shortlist": {"count": 50, "strategy": "rds_plus"}},
            "selection.shortlist.strategy is 'rds_plus'",
        ),
        (
            {"strategy": "ensemble", "parameters": {"members": {"rds_plus": {}}}},
            "selection.strategy is 'ensemble'",
        ),
    ],
)
def test_a_strategy_for_a_target_asks_for_one(selection: Any, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}.*expected data.target: a file with prompts"):
        config(selection=selection)
    data = {"pool": "pool.jsonl", "references": "a", "target": "target.jsonl"}
    assert config(selection=selection, data=data).embeds


def test_a_run_embeds_where_a_strategy_or_the_report_needs_it() -> None:
    data = {"pool": "pool.jsonl", "references": "a", "target": "target.jsonl"}
    assert not config(selection={"strategy": "random"}).embeds
    assert config(selection={"strategy": "random"}, data=data).embeds
    assert config(selection={"strategy": "idds"}).embeds
    assert config(selection={"strategy": "random"}, training={"reweight": 5.0}).embeds
