"""JSON Schemas of answers: checked against a configuration's schema, with nothing fetched for it."""

from typing import Any


def open_validator(schema: dict[str, Any]) -> Any:
    """A validator that knows `schema` and the published metaschemas alone.

    A `$ref` to anything else, by http or to a file, is not found: jsonschema itself would fetch it.
    """
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY

    return validator_for(schema, default=Draft202012Validator)(schema, registry=REGISTRY)


def find_schema_mistake(schema: dict[str, Any]) -> str | None:
    """Why `schema` cannot be used: it is no JSON Schema, or refers to something outside it. None where it can."""
    from jsonschema.exceptions import SchemaError
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    named = schema.get("$schema")
    if (
        named is not None
        and named not in REGISTRY
        and f"{named}#" not in REGISTRY
        and str(named).rstrip("#") not in REGISTRY
    ):
        return f"its $schema is {str(named)[:200]!r}, expected a published draft as https://json-schema.org/draft/2020-12/schema"
    validator = open_validator(schema)
    try:
        validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON Schema: {error.message[:200]} at {error.json_path}"
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = REGISTRY.with_resource(root.id() or "", root).crawl().resolver_with_root(root)
    waiting = [(root, resolver)]
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = contents.get(keyword) if isinstance(contents, dict) else None
            if not isinstance(reference, str):
                continue
            try:
                resolver.lookup(reference)
            except (Unresolvable, ValueError):
                return f"its {keyword} is {reference[:200]!r}, expected a place in the schema itself, as #/$defs/NAME"
        waiting += [(each, resolver.in_subresource(each)) for each in resource.subresources()]
    return None
