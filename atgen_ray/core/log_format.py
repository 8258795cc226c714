"""Logs as JSON, one line for each record, without secrets and without texts of rows.

An exception is told by its class and the places in the code, never by its message, which may quote
a row. Keys of providers are taken out of messages as of all logs.
"""

import json
import logging
import os
import sys
import traceback
from typing import Literal

from atgen_ray.core.credentials import redact, redact_logs
from atgen_ray.core.request_ids import find_id

LogFormat = Literal["text", "json"]
VARIABLE = "ATGEN_LOG_FORMAT"  # by which the processes of a service learn of it
LONGEST = 2000  # characters of a message


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (seconds since 1970), level, logger, message, process, the id of the request
        if there is one, and of an exception its class and places.
        """
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage())[:LONGEST],
            "process": record.process,
        }
        if request := find_id():
            line["request_id"] = request
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            line["error"] = record.exc_info[0].__name__
            line["places"] = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
        return json.dumps(line, ensure_ascii=False)


def ask_for(form: LogFormat) -> None:
    """Set the format for processes that this one starts, and for itself."""
    os.environ[VARIABLE] = form
    set_up_logs()


def set_up_logs() -> None:
    """Write this process's records of the project as JSON to its standard error, if asked to by
    the environment; else leave them as they are.
    """
    logger = logging.getLogger("atgen_ray")
    if os.environ.get(VARIABLE) != "json" or any(
        isinstance(each.formatter, JsonFormatter) for each in logger.handlers
    ):
        return
    redact_logs()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
