"""Response of server-sent events whose source is closed as soon as the client leaves."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

STALLED_SECONDS = 60.0  # for which a reader may take nothing

logger = logging.getLogger(__name__)


def _nothing() -> None:
    """Do nothing: only the source is to be closed."""


class EventStream(StreamingResponse):
    """Response that sends the items of `events`. However it ends, `events` is closed and `on_close`
    is called.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        on_close: Callable[[], object] = _nothing,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(events, headers=headers)
        self._events = events
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hurried(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, hurried)
        except* TimeoutError:
            # Who asks for a stream and never reads it holds no connection and no slot for ever.
            logger.info("a stream was ended: its reader took nothing for %g s", STALLED_SECONDS)
        finally:
            self._on_close()
