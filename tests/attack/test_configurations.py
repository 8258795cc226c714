"""Hostile configurations: YAML bombs, any text at all, and what a caller over HTTP may not ask
for.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from referencing.exceptions import Unresolvable

from atgen_ray.config import RunConfig, ServiceConfig
from atgen_ray.config.loading import dump_config, load_config, parse_config
from atgen_ray.core.credentials import read_key, redact
from atgen_ray.core.errors import UserError, printable
from atgen_ray.core.json_schema import open_validator
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.serving.security.restrictions import restrict_config

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[*HealthCheck])
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{at}: &a{at} {{<<: [{', '.join([f'*a{at - 1}'] * 10)}]}}\n" for at in range(1, 30)
)


def test_a_yaml_bomb_is_refused_at_once() -> None:
    started = time.thread_time()  # of work: other tests may have the cores
    with pytest.raises(
        UserError, match="configuration is not valid YAML: it holds more than 100000 values"
    ):
        parse_yaml(LAUGHS, "configuration")
    assert parse_yaml(MERGES, "configuration")["a29"] == {"x": 1}
    assert time.thread_time() - started < 5


def test_a_value_within_itself_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("data: {pool: x}\nmodel: {id: m}\nengine: {options: &o {again: *o}}\n")
    with pytest.raises(UserError, match="contains itself"):
        load_config(str(path))


@QUICK
@given(st.text(max_size=120))
@example("[" * 5000)
@example("? " * 3000)
@example("!!python/object/apply:os.system ['true']")
@example("a: !!python/name:os.system")
@example("&a [*a]")
@example("1" * 6000)
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    with suppress(UserError):
        parse_yaml(text, "configuration")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@QUICK
@given(st.dictionaries(st.sampled_from(sorted(RunConfig.model_fields)), TREES, max_size=4))
def test_any_tree_is_a_configuration_or_lines_that_name_keys(tree: dict[str, Any]) -> None:
    base = {"data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}}
    with suppress(UserError):
        parse_config(base | tree)


PAID = {"type": "openai", "model": "m", "guidelines": "g", "price": {"input": 1.0, "output": 1.0}}
ROUTER = {
    "type": "router",
    "first": PAID | {"votes": 2, "temperature": 0.7, "base_url": "http://10.0.0.1"},
    "then": "human",
}
MODEL = {"type": "model", "model": {"id": "/etc"}, "guidelines": "g"}


def stages(**settings: Any) -> dict[str, Any]:
    """A router whose second stage has `settings`."""
    annotators = [PAID | {"votes": 2, "temperature": 0.7}, PAID | settings, "human"]
    return {"type": "router", "stages": [{"annotator": each} for each in annotators]}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": {"id": "m", "trust_remote_code": True}}, "model.trust_remote_code is true"),
        (
            {"annotator": MODEL | {"model": {"id": "m", "trust_remote_code": True}}},
            "annotator.model.trust_remote_code",
        ),
        (
            {"annotator": PAID | {"api_key_file": "/etc/shadow"}},
            "annotator.api_key_file is '/etc/shadow'",
        ),
        (
            {"annotator": PAID | {"base_url": "http://169.254.169.254/latest"}},
            "annotator.base_url is",
        ),
        ({"annotator": PAID | {"base_url": "file:///etc/passwd"}}, "annotator.base_url is"),
        (
            {"annotator": PAID | {"base_url": "https://ours.example/v1/../.."}},
            "annotator.base_url is",
        ),
        ({"annotator": MODEL}, "annotator.model.id is '/etc'"),
        ({"engine": {"options": {"worker_extension_cls": "os.system"}}}, "engine.options is"),
        (
            {
                "annotator": {
                    "type": "router",
                    "first": PAID | {"votes": 2, "temperature": 0.7, "base_url": "http://10.0.0.1"},
                    "then": "human",
                }
            },
            "annotator.first.base_url is",
        ),
        (
            {"annotator": stages(base_url="http://10.0.0.1")},
            "annotator.stages.1.annotator.base_url",
        ),
        ({"annotator": stages(api_key_file="/etc/shadow")}, "annotator.stages.1.annotator.api_key"),
    ],
)
def test_over_http_nobody_names_code_files_or_addresses(
    changed: dict[str, Any], named: str
) -> None:
    tree = {"data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}} | changed
    if "annotator" in tree:
        tree["stopping"] = {"dollars": 1.0, "rounds": 1}
    service = ServiceConfig(base_urls=["https://ours.example/v1"])
    with pytest.raises(UserError) as caught:
        restrict_config(dump_config(parse_config(tree)), service)
    assert str(caught.value).startswith(named)


def test_over_http_the_services_own_endpoints_and_any_schema_pass() -> None:
    schema = {
        "type": "object",
        "properties": {"options": {"type": "string"}, "base_url": {"type": "string"}},
    }
    annotator = PAID | {"base_url": "https://ours.example/v1", "output_schema": schema}
    tree = {
        "data": {"pool": "p.jsonl"},
        "model": {"id": "m"},
        "annotator": annotator,
        "stopping": {"dollars": 1.0},
    }
    restrict_config(
        dump_config(parse_config(tree)), ServiceConfig(base_urls=["https://ours.example/v1"])
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://169.254.169.254/latest"},
        {"$ref": "file:///etc/passwd"},
        {
            "properties": {"a": {"items": [{"$ref": "https://example.org/s.json"}]}},
            "$schema": "http://json-schema.org/draft-07/schema#",
        },
        {"$dynamicRef": "http://169.254.169.254/latest"},
        {"$id": "file:///etc/", "properties": {"a": {"$ref": "passwd"}}},
        {"properties": {"a": {"$id": "http://169.254.169.254/", "allOf": [{"$ref": "latest"}]}}},
        {"$schema": "http://169.254.169.254/latest"},
        {"type": "objct"},
    ],
)
def test_a_schema_that_leads_elsewhere_is_refused_and_never_fetched(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("a schema was fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetched)
    tree = {
        "data": {"pool": "p.jsonl"},
        "model": {"id": "m"},
        "stopping": {"dollars": 1.0, "rounds": 1},
    }
    with pytest.raises(UserError, match=r"annotator\.output_schema holds ") as caught:
        parse_config(tree | {"annotator": PAID | {"output_schema": schema}})
    assert "\n" not in str(caught.value)
    if "objct" not in str(schema) and "$schema" not in schema:
        with pytest.raises(Unresolvable):
            open_validator(schema).validate({"a": {}})


def test_what_rows_say_cannot_rewrite_a_terminal() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07all fine\r\x9b31m\x08"
    shown = printable(f"dead letter: {hostile}\nnext")
    assert shown.split("\n") == [
        "dead letter: \\x1b[2J\\x1b]0;title\\x07all fine\\x0d\\x9b31m\\x08",
        "next",
    ]


def test_a_key_is_redacted_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-canary-77\n")
    assert read_key("NO_SUCH_VARIABLE", str(file), "annotator.api_key_file")
    assert redact(json.dumps({"a": ["x sk-canary-77 y"]})) == '{"a": ["x [key] y"]}'
