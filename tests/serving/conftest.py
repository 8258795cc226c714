"""Fixtures of the tests of the service."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from atgen_ray.serving.middleware import access_log


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """The lines of the access log."""
    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))  # type: ignore[method-assign]
    access_log.addHandler(handler)
    before = access_log.level
    access_log.setLevel(logging.INFO)
    yield lines
    access_log.removeHandler(handler)
    access_log.setLevel(before)
