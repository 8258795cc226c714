"""Strict JSON: every parser reads it, and equal values have the same text."""

import json
import math
from collections.abc import Mapping
from typing import Any


def encode_json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON (RFC 8259) with sorted keys, so that equal values have the same text.

    JSON has no NaN and no infinity; both become null, so that every parser reads a metric without a
    value. Lone surrogates, which UTF-8 cannot hold, stay escaped as `\\udXXX`.
    """
    text = json.dumps(
        _finite(value), allow_nan=False, ensure_ascii=False, sort_keys=True, indent=indent
    )
    return text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
