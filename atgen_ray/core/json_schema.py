"""Checks of JSON Schemas for answers of annotators. No reference is ever fetched."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atgen_ray.core.errors import nearest

if TYPE_CHECKING:
    from jsonschema import ValidationError

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
# Keywords that check nothing by themselves, and those of OpenAPI that people use.
NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "then",
    "else",
}
OPENAPI = {"example", "nullable", "discriminator", "xml", "externalDocs"}
IDENTIFIERS = {
    "$defs",
    "definitions",
    "$id",
    "$schema",
    "$anchor",
    "$dynamicAnchor",
    "$comment",
    "$vocabulary",
}
ALIKE = 0.8  # likeness to a keyword of JSON Schema from which an unknown one is taken for a typo


def open_validator(schema: dict[str, Any]) -> Any:
    """Return a validator that knows only `schema` and the published metaschemas.

    A `$ref` to anything else, by http or to a file, is not found. jsonschema itself would fetch it.
    """
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY

    return validator_for(schema, default=Draft202012Validator)(schema, registry=REGISTRY)


def check_schema(schema: dict[str, Any]) -> None:
    """Check that answers can be validated by `schema`.

    Raises:
        ValueError: a keyword or its value is none of JSON Schema, a pattern is no regular
            expression, `$schema` is no published draft, or a reference leads out of the schema or
            nowhere.
    """
    from jsonschema.exceptions import best_match

    _check_draft(schema.get("$schema"))
    kind = type(open_validator(schema))
    error = best_match(
        kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(schema)
    )
    if error is not None:
        raise ValueError(_explain(error))
    # JSON Schema ignores unknown keywords, so that a typo would silently check nothing.
    known = {*kind.VALIDATORS, *NOTES, *OPENAPI, *IDENTIFIERS}
    for inner, resolver in _list_schemas(schema):
        for keyword in inner.keys() - known:
            if close := difflib.get_close_matches(keyword, known, n=1, cutoff=ALIKE):
                raise ValueError(
                    f"holds {keyword!r}, which is no keyword of JSON Schema; did you mean "
                    f"'{close[0]}'?"
                )
        _check_references(inner, resolver)


def _check_draft(draft: Any) -> None:
    from jsonschema_specifications import REGISTRY

    if draft is not None and not any(
        name in REGISTRY for name in (draft, f"{draft}#", str(draft).rstrip("#"))
    ):
        published = "https://json-schema.org/draft/2020-12/schema"
        raise ValueError(
            f"holds {str(draft)[:200]!r} as $schema, expected a published draft, as {published}"
        )


def _explain(error: "ValidationError") -> str:
    """Return one line: the place within the schema, the value, and what was expected there."""
    place = ".".join(map(str, error.absolute_path)) or "the schema"
    shown = repr(error.instance)[:80]
    choices = [each.validator_value for each in (error, *error.context) if each.validator == "enum"]
    if choices and isinstance(error.instance, str):
        return (
            f"holds {shown} as {place}, which is none of JSON "
            f"Schema{nearest(error.instance, choices[0])}"
        )
    if error.validator == "format":
        return f"holds {shown} as {place}, which is no regular expression"
    expected = (
        f", expected {error.validator_value}"
        if error.validator == "type"
        else f": {error.message[:120]}"
    )
    return f"holds {shown} as {place}, which is none of JSON Schema{expected}"


def _list_schemas(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield `schema` and all schemas within it, each with the resolver of its references."""
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    registry = REGISTRY.with_resource(root.id() or "", root).crawl()
    waiting = [(root, registry.resolver_with_root(root))]
    while waiting:
        resource, resolver = waiting.pop()
        if isinstance(resource.contents, dict):  # true and false are schemas too
            yield resource.contents, resolver
        waiting += [(each, resolver.in_subresource(each)) for each in resource.subresources()]


def _check_references(schema: dict[str, Any], resolver: Any) -> None:
    """Raise ValueError for a reference of `schema` that leads out of the whole or nowhere."""
    from referencing.exceptions import Unresolvable

    for keyword in REFERENCES:
        reference = schema.get(keyword)
        if not isinstance(reference, str):
            continue
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError):
            raise ValueError(
                f"holds {reference[:200]!r} as {keyword}, which leads nowhere within it, expected "
                f"one as '#/$defs/NAME'"
            ) from None
