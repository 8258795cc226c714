"""Keys of paid services: read from the environment or a file, held as SecretStr, and redacted in
every log record.
"""

import logging
import os
from pathlib import Path

from pydantic import SecretStr

from atgen_ray.core.errors import UserError

HIDDEN = "[key]"
_known: set[str] = set()


def read_key(variable: str, file: str | None, key: str) -> SecretStr | None:
    """Return the key in `file`, else in the environment variable, or None; redact it from now on.

    Raises:
        UserError: the file cannot be read or is empty; the message names the configuration key
            `key`.
    """
    if file is None:
        text = os.environ.get(variable, "")
    else:
        try:
            text = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{key} is {file[:80]!r}, which cannot be read: {error.args[-1]}"
            ) from None
        if not text.strip():
            raise UserError(f"{key} is {file[:80]!r}, which is empty, expected the key alone")
    if not text.strip():
        return None
    _known.add(text.strip())
    redact_logs()
    return SecretStr(text.strip())


def redact(text: str) -> str:
    """Return `text` with every key that this process has read replaced by HIDDEN."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    return text


def redact_logs() -> None:
    """Redact keys in every log record of this process, tracebacks included.

    The record factory is wrapped and not a handler, since libraries add handlers of their own.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def redacting(*arguments: object, **keywords: object) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        record.msg = redact(record.getMessage())
        record.args = None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return record

    redacting.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(redacting)
