"""Base class of request bodies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from atgen_ray.core.errors import nearest

SHOWN = 80  # characters of an unknown key


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
