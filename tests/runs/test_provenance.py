"""Every attempt at a run leaves the versions that it was made with."""

from pathlib import Path

import pytest

from atgen_ray.config.loading import parse_config
from atgen_ray.runs.provenance import compare_versions, list_versions, write_provenance
from atgen_ray.store.run_folder import RunFolder

CONFIG = parse_config(
    {"name": "task", "data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}}
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path), "task")


def test_each_attempt_has_an_entry_and_the_top_is_the_last(folder: RunFolder) -> None:
    assert write_provenance(CONFIG, "transformers", folder, 1, 10.0) is None
    assert write_provenance(CONFIG, "transformers", folder, 2, 20.0) is None
    versions = folder.read_json("versions.json")
    attempts = versions.pop("attempts")
    assert versions == list_versions("transformers")
    assert attempts == [
        {"attempt": 1, "time": 10.0} | versions,
        {"attempt": 2, "time": 20.0} | versions,
    ]


def test_a_library_that_changed_is_told(folder: RunFolder) -> None:
    # As an older atgen-ray wrote it, which knew the last attempt alone.
    folder.write_json(
        "versions.json", list_versions("transformers") | {"torch": "1.0", "gone": "2"}
    )
    now = list_versions("vllm")
    warning = write_provenance(CONFIG, "vllm", folder, 3, 30.0)
    assert warning is not None
    assert f"torch 1.0 -> {now['torch']}" in warning
    assert "gone 2 -> absent" in warning
    assert "engine transformers -> vllm" in warning
    assert "numpy" not in warning
    assert [entry.get("attempt") for entry in folder.read_json("versions.json")["attempts"]] == [
        None,
        3,
    ]


def test_equal_attempts_do_not_differ() -> None:
    versions = list_versions("transformers")
    assert compare_versions({"attempt": 1, "time": 0.0} | versions, versions) is None


def test_the_versions_are_those_of_the_nodes_that_work(folder: RunFolder) -> None:
    here = list_versions("vllm")
    node = here | {"vllm": "0.1"}
    assert write_provenance(CONFIG, "vllm", folder, 1, 10.0, {"10.0.0.2": node}) is None
    assert folder.read_json("versions.json")["vllm"] == "0.1"
    other = node | {"torch": "9"}
    warning = write_provenance(
        CONFIG, "vllm", folder, 2, 20.0, {"10.0.0.2": node, "10.0.0.3": other, "10.0.0.4": other}
    )
    assert warning == (
        "the nodes of this Ray cluster have different versions: "
        f"torch {here['torch']} on 10.0.0.2, 9 on 10.0.0.3 and 10.0.0.4"
    )
