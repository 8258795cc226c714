"""Whether annotator.output_schema is a JSON Schema that answers can be checked by; nothing is fetched for it."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atgen_ray.errors import nearest

if TYPE_CHECKING:
    from jsonschema import ValidationError

ONE, SEVERAL, NAMED = "one schema", "a list of schemas", "schemas by name"
# Where a schema holds others.
INNER = {
    **dict.fromkeys(("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"), ONE),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), ONE),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), SEVERAL),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"), NAMED),
}
NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
OPENAPI = {"example", "nullable", "discriminator", "xml", "externalDocs"}
ALIKE = 0.8  # how much a keyword must be like one of JSON Schema to be taken for a slip of the pen


def check_schema(schema: dict[str, Any]) -> None:
    """Nothing, where answers can be checked by `schema`.

    Raises:
        ValueError: a keyword or its value is none of JSON Schema, a pattern is no regular expression, or a `$ref` leads
            nowhere within the schema.
    """
    from jsonschema.exceptions import best_match
    from jsonschema.validators import Draft202012Validator, validator_for

    kind = validator_for(schema, default=Draft202012Validator)
    error = best_match(kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(schema))
    if error is not None:
        raise ValueError(_explain(error))
    known = {*kind.VALIDATORS, *INNER, *NOTES, *OPENAPI}
    for inner in _list_schemas(schema):
        for keyword in inner.keys() - known:
            if close := difflib.get_close_matches(keyword, known, n=1, cutoff=ALIKE):
                raise ValueError(f"holds {keyword!r}, which is no keyword of JSON Schema; did you mean '{close[0]}'?")
        _check_reference(inner.get("$ref"), schema)


def _explain(error: "ValidationError") -> str:
    """One line: the place within the schema, the value, and what was expected there."""
    place = ".".join(map(str, error.absolute_path)) or "the schema"
    shown = repr(error.instance)[:80]
    choices = [each.validator_value for each in (error, *error.context) if each.validator == "enum"]
    if choices and isinstance(error.instance, str):
        return f"holds {shown} as {place}, which is none of JSON Schema{nearest(error.instance, choices[0])}"
    if error.validator == "format":
        return f"holds {shown} as {place}, which is no regular expression"
    expected = f", expected {error.validator_value}" if error.validator == "type" else f": {error.message[:120]}"
    return f"holds {shown} as {place}, which is none of JSON Schema{expected}"


def _list_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """`schema` and all schemas within it."""
    if not isinstance(schema, dict):  # true and false are schemas too
        return
    yield schema
    for keyword, form in INNER.items():
        value = schema.get(keyword)
        inner = [value] if form == ONE else value.values() if isinstance(value, dict) else value
        for each in inner or ():
            yield from _list_schemas(each)


def _check_reference(reference: Any, schema: dict[str, Any]) -> None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if reference is None:
        return
    try:
        # A registry of this one schema, which retrieves no other.
        Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver().lookup(reference)
    except Unresolvable:
        raise ValueError(
            f"holds {reference[:80]!r} as $ref, which leads nowhere within it, expected one as '#/$defs/NAME'"
        ) from None
