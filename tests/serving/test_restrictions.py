"""Which files callers over HTTP may have read."""

from pathlib import Path
from typing import Any

import pytest
from helpers.house import House
from helpers.services import bearer
from hypothesis import given
from hypothesis import strategies as st

from atgen_ray.config import DataConfig, EvaluationConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.serving.run_restrictions import list_locations, restrict_data
from atgen_ray.serving.security.restrictions import check_hosts, check_location

MAIL = {"to": ["ann@example.org"], "sender": "runs@example.org", "host": "mail.example.org"}


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
    [
        "/etc/passwd",
        "../secret.jsonl",
        "~/x",
        "file:///etc/passwd",
        "s3://other/x",
        "s3://bucket/../x",
        "./x",
        "a/b/c",
        "package://pip/__init__.py",
        "package://some/file",
        "s3://bucket/data/%2e%2e/x",
        "s3://bucket/data/x::file:///etc",
    ],
)
def test_places_outside_are_refused(root: Path, location: str) -> None:
    with pytest.raises(UserError, match="data_roots"):
        check_location(location, [str(root), "s3://bucket/data"], "pool")


def test_hub_ids_packages_and_urls_below_a_root_pass(root: Path) -> None:
    roots = ["s3://bucket/data", "package://some"]
    for location in (
        "squad",
        "owner/data-set_1.0",
        "package://some/file",
        "s3://bucket/data/pool.jsonl",
    ):
        assert check_location(location, roots, "pool") == location
    assert check_location("package://aclsum/dataset/train.jsonl", [], "pool")


@given(st.text(max_size=60))
def test_any_text_is_a_hub_id_a_package_or_refused(location: str) -> None:
    try:
        found = check_location(location, [], "pool")
    except UserError:
        return
    assert found == location
    assert location.count("/") <= 1
    assert not location.startswith(("/", "."))


def test_what_metrics_and_judge_load_is_named_unless_it_is_the_published_checkpoint() -> None:
    judge = {"type": "model", "model": {"id": "/etc/judge"}}
    models = {"bertscore": {"model": "/etc/bert"}, "alignscore": {"checkpoint": "/etc/align.ckpt"}}
    assert list(list_locations(EvaluationConfig())) == []
    assert dict(
        list_locations(EvaluationConfig.model_validate({"models": models, "judge": judge}))
    ) == {
        "evaluation.models.bertscore.model": "/etc/bert",
        "evaluation.models.alignscore.checkpoint": "/etc/align.ckpt",
        "evaluation.judge.model.id": "/etc/judge",
    }


@pytest.mark.parametrize("key", ["pool", "test", "target", "labeled", "path"])
def test_a_run_over_http_reads_data_below_a_root_alone(root: Path, key: str) -> None:
    inside, outside = f"{root}/pool.jsonl", f"{root}/../secret.jsonl"
    keys = ("pool", "test", "target", "labeled", "path")
    moved = restrict_data(DataConfig.model_validate(dict.fromkeys(keys, inside)), [str(root)])
    assert {getattr(moved, key) for key in keys} == {str(Path(inside).resolve())}
    wrong = DataConfig.model_validate(dict.fromkeys(keys, inside) | {key: outside})
    with pytest.raises(UserError, match=rf"data\.{key} is .*data_roots"):
        restrict_data(wrong, [str(root)])


@pytest.mark.parametrize("key", ["annotator.notice", "notify"])
@pytest.mark.parametrize("told", [{"webhook": "http://169.254.169.254/latest"}, {"email": MAIL}])
def test_a_run_over_http_sends_notices_only_where_it_may(key: str, told: dict[str, Any]) -> None:
    tree: dict[str, Any] = {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}}
    tree["annotator"] = {"type": "human"}
    (tree if key == "notify" else tree["annotator"])[key.split(".")[-1]] = told
    config = parse_config(tree)
    with pytest.raises(
        UserError,
        match=rf"^{key}\.\S+ names the host '\S+', which is not in the service's",
    ):
        check_hosts(config, ["example.org"])
    check_hosts(config, ["169.254.169.254", "mail.example.org"])


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "https://user:secret@host/x", "http://a b/", "gopher://x/"]
)
def test_a_webhook_is_a_plain_url(url: str) -> None:
    tree = {"data": {"pool": "p.jsonl"}, "model": {"id": "m"}}
    with pytest.raises(UserError, match=r"expected https://HOST/PATH"):
        parse_config(tree | {"annotator": {"type": "human", "notice": {"webhook": url}}})


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("selection.ids", {"selection": {"ids": "/etc/passwd"}}),
        ("model.adapter", {"model": {"id": "maker/model", "adapter": "/etc"}}),
        ("data.labeled", {"data": {"pool": "maker/set", "references": "a", "labeled": "/etc/x"}}),
    ],
)
def test_what_a_run_over_http_starts_from_lies_below_a_root(
    key: str, setting: dict[str, Any], tmp_path: Path
) -> None:
    house = House(tmp_path)
    admin = bearer(house.tokens.create("admin", "root"))
    tree = {"name": "x", "model": {"id": "maker/model"}} | setting
    tree = {"data": {"pool": "maker/set", "references": "a"}} | tree
    answer = house.client.post("/api/v1/runs", headers=admin, json=tree)
    house.journal.close()
    assert answer.status_code == 400
    assert f"{key} is '/etc" in answer.text
    assert "data_roots" in answer.text
