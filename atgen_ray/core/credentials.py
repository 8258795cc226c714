"""Keys of paid services: read from the environment or a file, held as SecretStr, taken out of
whatever is logged.
"""

import logging
import os
from pathlib import Path

from pydantic import SecretStr

from atgen_ray.core.errors import UserError

HIDDEN = "[key]"
_known: set[str] = set()


def read_key(variable: str, file: str | None, key: str) -> SecretStr | None:
    """The key in `file`, else in the environment variable; None when there is neither. From now on
    it is redacted.

    Raises:
        UserError: the file cannot be read or is empty; `key` is the configuration key that names
            it.
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
    """`text` without any key that this process has read."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    return text


def redact_logs() -> None:
    """Takes keys out of every log record of this process, tracebacks included, whoever writes
    it.
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
