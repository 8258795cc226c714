"""Which files callers over HTTP may have read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atgen_ray.config import EvaluationConfig
from atgen_ray.errors import UserError
from atgen_ray.serving.data_roots import check_location
from atgen_ray.serving.run_control import list_locations


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "pool.jsonl").write_text("{}")
    (tmp_path / "secret.jsonl").write_text("{}")
    (folder / "link").symlink_to(tmp_path / "secret.jsonl")
    return folder


def test_files_below_a_root_may_be_read(root: Path) -> None:
    for name in ("pool.jsonl", "deep", "deep/../pool.jsonl", "new.jsonl"):
        assert Path(check_location(f"{root}/{name}", [str(root)], "pool")).is_relative_to(root)


@pytest.mark.parametrize(
    "name",
    ["../secret.jsonl", "link", "deep/../../secret.jsonl", "\0", "x" * 5000, "..", "deep/\0"],
)
def test_nothing_else_may(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="data_roots"):
        check_location(f"{root}/{name}", [str(root)], "pool")


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret.jsonl", "~/x", "file:///etc/passwd", "s3://other/x", "s3://bucket/../x", "./x", "a/b/c"],
)
def test_places_outside_are_refused(root: Path, location: str) -> None:
    with pytest.raises(UserError, match="data_roots"):
        check_location(location, [str(root), "s3://bucket/data"], "pool")


def test_hub_ids_packages_and_urls_below_a_root_pass(root: Path) -> None:
    for location in ("squad", "owner/data-set_1.0", "package://some/file", "s3://bucket/data/pool.jsonl"):
        assert check_location(location, ["s3://bucket/data"], "pool") == location


@given(st.text(max_size=60))
def test_any_text_is_a_hub_id_a_package_or_refused(location: str) -> None:
    try:
        found = check_location(location, [], "pool")
    except UserError:
        return
    assert found == location
    assert location.startswith("package://") or (location.count("/") <= 1 and not location.startswith(("/", ".")))


def test_what_metrics_and_judge_load_is_named_unless_it_is_the_published_checkpoint() -> None:
    judge = {"type": "model", "model": {"id": "/etc/judge"}}
    models = {"bertscore": {"model": "/etc/bert"}, "alignscore": {"checkpoint": "/etc/align.ckpt"}}
    assert list(list_locations(EvaluationConfig())) == []
    assert dict(list_locations(EvaluationConfig.model_validate({"models": models, "judge": judge}))) == {
        "evaluation.models.bertscore.model": "/etc/bert",
        "evaluation.models.alignscore.checkpoint": "/etc/align.ckpt",
        "evaluation.judge.model.id": "/etc/judge",
    }
