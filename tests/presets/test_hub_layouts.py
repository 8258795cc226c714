"""Every preset loads what the hub serves: its files, in its layout, by its protocol."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.fakes.hub import serve_hub
from helpers.preset_rows import SHAPES

from atgen_ray.config.loading import load_config
from atgen_ray.core.errors import UserError
from atgen_ray.data import build_split
from atgen_ray.data.sources import parse_split

# Where the files of a split lie in a repository that says so in its README, {split} being the
# split.
CARDED = {
    "gsm8k": ("main", "main/{split}-00000-of-00001.parquet"),
    "nq_open": ("nq_open", "nq_open/{split}-00000-of-00001.parquet"),
    "trivia_qa": ("rc.nocontext", "rc.nocontext/{split}-00000-of-00001.parquet"),
    "race": ("all", "all/{split}-00000-of-00001.parquet"),
    "hotpotqa": ("distractor", "distractor/{split}-00000-of-00001.parquet"),
    "tool_calling": ("dataset", "xlam_function_calling_60k.json"),
}
# And where file names alone tell.
NAMED = {
    "dialogsum": "{split}.csv",
    "multi30k": "{split}.jsonl",
    "musique": "musique_ans_v1.0_{split}.jsonl",
    "math": "data/{split}-00000-of-00001.parquet",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a hub's repositories, which this process's huggingface_hub asks."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve_hub(tmp_path / "hub") as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield tmp_path / "hub"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lay_out(
    name: str, folder: Path, subset: str | None, splits: dict[str, list[dict[str, Any]]]
) -> None:
    """The files of a repository as the hub has them, beside another subset where there are
    several.
    """
    if name in CARDED:
        config, where = CARDED[name]
        named = "".join(
            f"  - split: {split}\n    path: {where.format(split=split)}\n" for split in splits
        )
        (folder).mkdir(parents=True)
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{named}---\n# words\n"
        )
    else:
        where = NAMED.get(name, f"{subset or 'default'}/{{split}}/0000.parquet")
        if subset is not None:
            write_rows(folder / f"{subset}x/train/0000.parquet", [{"wrong": "subset"}])
    for split, rows in splits.items():
        write_rows(folder / where.format(split=split), rows)


@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_loads_from_the_hub(name: str, hub: Path, ray_session: None) -> None:
    pool, test, part, references = SHAPES[name]
    config = load_config(name, ["data.duplicates.action=off"])
    data = config.data
    folder = hub / data.pool / (data.revision or "main").replace("/", "+")
    named = [parse_split(split, "")[0] for split in (data.pool_split, data.test_split)]
    lay_out(name, folder, data.subset, dict(zip(named, (pool, test or pool), strict=True)))
    for split in ("pool", "test"):
        read = build_split(data, config.prompt, split, config.seed)
        assert not read.dead
        assert part in read.examples["text"][0].as_py()
    assert read.gold["references"][0].as_py() == references


def test_dialogsum_s_three_references_are_one_example(hub: Path, ray_session: None) -> None:
    config = load_config("dialogsum")
    rows = [
        {"id": f"test_0_{n}", "dialogue": "A: Hi.\nB: Hi.", "summary": f"summary {n}", "topic": ""}
        for n in (1, 2, 3)
    ]
    write_rows(hub / config.data.pool / "main" / "train.csv", rows[:1])
    write_rows(hub / config.data.pool / "main" / "test.csv", rows)
    test = build_split(config.data, config.prompt, "test", 0)
    assert test.gold["references"].to_pylist() == [["summary 1", "summary 2", "summary 3"]]


def test_what_was_loaded_once_loads_without_the_hub(
    hub: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("multi30k", ["data.duplicates.action=off"])
    rows = SHAPES["multi30k"][0]
    lay_out("multi30k", hub / config.data.pool / "main", None, {"train": rows, "test": rows})
    first = build_split(config.data, config.prompt, "pool", 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert build_split(config.data, config.prompt, "pool", 0).examples == first.examples
    with pytest.raises(
        UserError,
        match=r"^data\.test is .*, and Hugging Face cannot load it|no file or folder here",
    ):
        build_split(config.data, config.prompt, "test", 0)


def test_a_repository_cannot_lead_to_this_machine(
    hub: Path, ray_session: None, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"en": "secret", "de": "geheim"}\n')
    config = load_config("multi30k")
    folder = hub / config.data.pool / "main"
    for pattern in (str(secret), f"file://{secret}", "../../../../../../secret.jsonl"):
        write_rows(folder / "train.jsonl", [{"en": "x", "de": "y"}])
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: default\n  data_files: {pattern}\n---\n"
        )
        with pytest.raises(UserError, match="a file outside it"):
            build_split(config.data, config.prompt, "pool", 0)
