"""Schemas of answers, looked at before anybody is paid to answer by them."""

from typing import Any

import pytest
from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.json_schema import check_schema


@pytest.mark.parametrize(
    ("schema", "mistake"),
    [
        (
            {"type": "objct"},
            "holds 'objct' as type, which is none of JSON Schema; did you mean 'object'?",
        ),
        (
            {"type": "object", "properties": {"label": {"type": "strng"}}},
            "holds 'strng' as properties.label.type, which is none of JSON Schema; did you mean "
            "'string'?",
        ),
        ({"type": "object", "required": "label"}, "holds 'label' as required, .* expected array"),
        (
            {"properties": {"label": {"pattern": "["}}},
            "as properties.label.pattern, .* no regular expression",
        ),
        (
            {"propertes": {}},
            "holds 'propertes', which is no keyword of JSON Schema; did you mean 'properties'?",
        ),
        ({"items": {"allOf": [{"minLenght": 3}]}}, "did you mean 'minLength'?"),
        (
            {"$ref": "#/$defs/label"},
            "holds '#/\\$defs/label' as \\$ref, which leads nowhere within it",
        ),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "leads nowhere within it"),
        ({"$ref": "file:///etc/passwd"}, "leads nowhere within it"),
    ],
)
def test_a_schema_that_no_answer_can_be_checked_by_is_refused(
    schema: dict[str, Any], mistake: str
) -> None:
    with pytest.raises(ValueError, match=mistake):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {
            "type": "object",
            "properties": {"typ": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"const": 1}},
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {}},
            "$ref": "#/definitions/a",
        },
        {"type": "string", "x-order": 3, "description": "a label", "example": "yes"},
    ],
)
def test_other_schemas_pass(schema: dict[str, Any]) -> None:
    check_schema(schema)


def test_the_configuration_names_the_key() -> None:
    annotator = {
        "type": "openai",
        "model": "gpt-5-mini",
        "guidelines": "Sort.",
        "output_field": "labl",
    }
    schema = {"type": "object", "properties": {"label": {"type": "string"}}}
    with pytest.raises(UserError, match=r"annotator\.output_schema holds 'objct' as type"):
        parse_config(SMALLEST | {"annotator": annotator | {"output_schema": {"type": "objct"}}})
    with pytest.raises(
        UserError, match=r"annotator\.output_field is 'labl', .* did you mean 'label'\?"
    ):
        parse_config(SMALLEST | {"annotator": annotator | {"output_schema": schema}})
