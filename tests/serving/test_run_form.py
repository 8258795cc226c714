"""The form of a new run: what it shows of a preset is the preset."""

from typing import Any

import pytest

from atgen_ray.config import HumanAnnotatorConfig, RunConfig
from atgen_ray.config.annotators.people import GoldConfig
from atgen_ray.config.loading import dump_config, list_presets, parse_config, read_tree
from atgen_ray.core.errors import UserError
from atgen_ray.core.schema import merge_trees
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.serving.pages.run_form import FormField, build_form, copy_config
from atgen_ray.serving.routes.config import read_more


def submit(fields: dict[str, list[FormField]]) -> dict[str, Any]:
    """What the page's script sends for the fields."""
    tree: dict[str, Any] = {}
    for field in (field for group in fields.values() for field in group if field.value):
        *parents, last = field.key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = (
            parse_yaml(field.value, field.key)
            if field.kind in ("integer", "number")
            else field.value
        )
    return tree


@pytest.mark.parametrize("preset", list_presets())
def test_a_preset_filled_in_and_sent_is_the_preset(preset: str) -> None:
    fields, more = build_form(preset)
    sent = merge_trees(read_more(more), submit(fields))
    assert RunConfig.model_validate(sent) == RunConfig.model_validate(read_tree(preset))


def test_an_empty_form_shows_defaults_and_meanings() -> None:
    fields, more = build_form(None)
    every = {field.key: field for group in fields.values() for field in group}
    assert more == ""
    assert {field.value for field in every.values()} == {""}
    assert all(field.help for field in every.values())
    assert (every["selection.count"].default, every["selection.count"].kind) == ("10", "integer")
    assert "huds" in every["selection.strategy"].choices
    assert {"dataset", "openai"} <= set(every["annotator.type"].choices)
    paid = {"openai", "anthropic", "mistral", "gemini"}
    assert set(every["annotator.model"].types) == paid
    assert "dataset" in every["annotator.price_per_label"].types


@pytest.mark.parametrize("preset", list_presets())
def test_a_copied_run_filled_in_and_sent_is_the_run(preset: str) -> None:
    config = parse_config(read_tree(preset) | {"storage": "/elsewhere"})
    fields, more = build_form(None, copy_config(dump_config(config), "copy-2"))
    sent = merge_trees(read_more(more), submit(fields))
    assert "storage" not in sent
    assert parse_config(sent | {"storage": "/elsewhere", "name": config.name}) == config


def test_a_copied_router_keeps_the_types_of_its_stages() -> None:
    first = {"type": "openai", "model": "gpt-4.1-mini", "guidelines": "Short.", "votes": 3}
    first |= {"temperature": 0.7}
    annotator = {"type": "router", "first": first, "then": {"type": "human"}}
    tree = {"data": {"pool": "p"}, "model": {"id": "m"}}
    config = parse_config(tree | {"annotator": annotator, "name": "a"})
    copied = copy_config(dump_config(config), "a-2")
    assert parse_config(copied | {"name": "a"}) == config
    assert copied["annotator"]["first"] == first


def test_every_setting_of_people_has_a_field() -> None:
    fields, _ = build_form(None)
    keys = {field.key for group in fields.values() for field in group}
    settings = set(HumanAnnotatorConfig.model_fields) - {"examples", "gold", "notice"}
    assert {f"annotator.{name}" for name in settings} <= keys
    assert {f"annotator.gold.{name}" for name in GoldConfig.model_fields} <= keys
    assert {"annotator.notice.webhook", "annotator.notice.service"} <= keys
    mode = next(field for field in fields["People"] if field.key == "annotator.mode")
    assert (mode.choices, mode.types) == (["design", "rounds"], ["human"])
    fields, more = build_form(None, {"annotator": {"type": "openai", "mode": "batch"}})
    assert more == "annotator:\n  mode: batch\n"


def test_an_unknown_preset_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"preset 'dmeo' is unknown, expected one of .*demo"):
        build_form("dmeo")
