"""Logs as JSON: one line for each record, without keys and without texts of rows."""

import json
import logging
import sys

import pytest

from atgen_ray.core.credentials import read_key
from atgen_ray.core.log_format import VARIABLE, JsonFormatter, set_up_logs


def test_a_record_is_one_line_without_secrets_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-canary-1")
    read_key("SOME_KEY", None, "annotator.api_key_file")
    try:
        raise ValueError("row says canary-2")
    except ValueError:
        caught = sys.exc_info()
    make = logging.getLogRecordFactory()
    record = make(
        "atgen_ray.x", logging.ERROR, __file__, 1, "key %s\nnext", ("sk-canary-1",), caught
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "canary" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["error"]) == ("error", "atgen_ray.x", "ValueError")
    assert told["message"] == "key [key]\nnext"
    [place] = told["places"]
    assert place.startswith(__file__)


def test_logs_stay_as_they_are_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("atgen_ray")
    before, level, passes = [*logger.handlers], logger.level, logger.propagate
    monkeypatch.delenv(VARIABLE, raising=False)
    set_up_logs()
    assert logger.handlers == before
    monkeypatch.setenv(VARIABLE, "json")
    try:
        set_up_logs()
        set_up_logs()
        [added] = [each for each in logger.handlers if each not in before]
        assert isinstance(added.formatter, JsonFormatter)
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
        logger.propagate = passes
