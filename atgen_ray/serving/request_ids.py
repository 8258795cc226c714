"""Middleware around all others: each request has an id, and is counted."""

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atgen_ray.core.request_ids import HEADER, take_id
from atgen_ray.serving.metrics import RequestMetrics


class RequestIds:
    """Takes the caller's X-Request-Id or makes one, and returns it with every answer.

    `scope["state"]["request_id"]` has it for the access log, and `find_id` for everything else.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = take_id(Headers(scope=scope).get(HEADER))
        scope.setdefault("state", {})["request_id"] = taken
        began = time.monotonic()

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = taken
                self._metrics.count(scope["method"], message["status"], time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, with_id)
