"""Every preset: valid, with a licence, and able to read rows of its source's shape."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from helpers.preset_rows import SHAPES

from atgen_ray.config.loading import list_presets, load_config
from atgen_ray.data import build_split
from atgen_ray.data.sources import parse_split
from atgen_ray.evaluation import evaluate_predictions


def test_every_preset_has_a_shape_here() -> None:
    assert {*SHAPES, "demo"} == set(list_presets())


@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_reads_its_source_s_rows(name: str, ray_session: None, tmp_path: Path) -> None:
    pool, test, part, references = SHAPES[name]
    config = load_config(name, [f"data.path={tmp_path}", "data.duplicates.action=off"])
    splits = [
        parse_split(split, "")[0] for split in (config.data.pool_split, config.data.test_split)
    ]
    for split, rows in zip(splits, (pool, test or pool), strict=True):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [
        build_split(config.data, config.prompt, split, config.seed) for split in ("pool", "test")
    ]
    for found in read:
        assert not found.dead
        assert found.examples.num_rows == found.gold.num_rows > 0
        assert part in found.examples["text"][0].as_py()
    answers = read[1].gold["references"][0].as_py()
    assert answers == references
    assert not any(
        answer in read[1].examples["text"][0].as_py() for answer in answers if len(answer) > 12
    )
    # A reference, given as the answer, is right by every metric of the preset that says what is
    # right.
    light = [
        metric
        for metric in config.evaluation.metrics or []
        if metric not in ("words", "source_support")
    ]
    scores = evaluate_predictions(
        {"a": answers[0]}, {"a": answers}, light, sources={"a": part}
    ).metrics
    assert all(
        scores[metric]["mean"] in (1, pytest.approx(100))
        for metric in light
        if "novel" not in metric
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_names_its_licence_and_runs_from_the_hub_by_default(name: str) -> None:
    text = (files("atgen_ray") / "presets" / f"{name}.yaml").read_text()
    assert text.startswith(f"# {name}: ")
    assert "# Licence of the data: " in text
    config = load_config(name)
    assert config.data.path is None
    assert config.data.pool.count("/") == 1
    assert config.prompt.system
    assert config.evaluation.metrics
    local = load_config(name, ["data.pool=mine.jsonl", "data.test=null"])
    assert (local.data.pool, local.data.test) == ("mine.jsonl", None)
