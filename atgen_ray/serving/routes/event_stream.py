"""Server-sent events whose source is told at once when nobody hears them any more."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


def _nothing() -> None:
    """Nothing but the source is to be closed."""


class EventStream(StreamingResponse):
    """Sends what `events` gives; however the sending ends, `events` is closed then, and `on_close`
    called.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str, None], on_close: Callable[[], object] = _nothing
    ) -> None:
        super().__init__(events)
        self._events = events
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            self._on_close()
