"""Base class of request bodies."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, model_validator

from atgen_ray.core.errors import nearest

MOST_VALUES = 20_000  # of a configuration
SHOWN = 80  # characters of an unknown key


def _count(tree: Any) -> Any:
    """Raise ValueError for a tree of more than `MOST_VALUES` values: each wrong key is a mistake to
    explain.
    """
    waiting = [tree]
    seen = 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if isinstance(each, dict | list):
            waiting += each.values() if isinstance(each, dict) else each
        if seen + len(waiting) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, expected a configuration")
    return tree


# The keys of a configuration file.
Tree = Annotated[dict[str, JsonValue], BeforeValidator(_count)]


class Body(BaseModel):
    """Base of request bodies. An unknown key is an error, whose message names the nearest known
    key.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, given: Any) -> Any:
        unknown = (
            [key for key in given if key not in cls.model_fields] if isinstance(given, dict) else []
        )
        if unknown:
            key = str(unknown[0])[:SHOWN]
            raise ValueError(f"{key!r} is unknown here{nearest(key, cls.model_fields)}")
        return given
