"""By which way this process changes things, for the audit log."""

from contextvars import ContextVar
from typing import Literal

Channel = Literal["http", "page", "cli", "api", "service"]
CHANNEL: ContextVar[Channel] = ContextVar("channel", default="api")  # the command line sets its own
