"""What stands before every route: the token, the size of the body, the number of requests under way, and the log.

Plain ASGI, so that a request is refused before its body is read.
"""

import json
import logging
import sys
import time
from typing import Any

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atgen_ray.config import LimitsConfig
from atgen_ray.errors import OutOfOrder
from atgen_ray.serving.access import Tokens
from atgen_ray.serving.faults import fault_response
from atgen_ray.serving.pages.assets import STATIC
from atgen_ray.serving.pages.rendering import invite_to_sign_in, wants_page
from atgen_ray.serving.sessions import CSRF_HEADER, SIGN_IN, is_own_write, read_cookie
from atgen_ray.serving.uploads import UPLOADS

PUBLIC = frozenset({"/healthz", "/readyz"})
access_log = logging.getLogger("atgen_ray.access")


class Guards:
    """Wraps the application; `scope["state"]["caller"]` is set for every route but the few that are open to all.

    Programs show their token in a header, browsers in a cookie.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, limits: LimitsConfig) -> None:
        self._app, self._tokens, self._limits = app, tokens, limits
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.time(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, watched)
        except OutOfOrder as error:  # the tokens cannot be looked up
            await fault_response(503, str(error), self._limits.retry_after)(scope, receive, watched)
        finally:
            _log(scope, status, started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PUBLIC or scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._limits.requests:
            busy = fault_response(429, "too many requests are under way", retry_after=self._limits.retry_after)
            await busy(scope, receive, send)
            return
        self._under_way += 1
        try:
            refusal = None if scope["path"] == SIGN_IN else await self._refuse(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            if scope["path"].startswith(UPLOADS):  # they are written as they come, and counted there
                await self._app(scope, receive, send)
                return
            await self._bound(scope, receive, send, Headers(scope=scope).get("content-length"))
        finally:
            self._under_way -= 1

    async def _refuse(self, scope: Scope) -> Response | None:
        """Finds out who calls; an answer for one who may not come in."""
        given, cookie = Headers(scope=scope).get("authorization"), read_cookie(scope)
        scheme, _, token = given.partition(" ") if given is not None else ("bearer", "", cookie or "")
        caller = await to_thread.run_sync(self._tokens.identify, token) if scheme.lower() == "bearer" else None
        if caller is None:
            if given is None and wants_page(scope):
                return invite_to_sign_in(scope)
            return fault_response(401, "expected a valid token: Authorization: Bearer TOKEN")
        if given is None and not is_own_write(scope, token):
            return fault_response(403, f"a write with a cookie needs {CSRF_HEADER} from a page of this service")
        scope.setdefault("state", {})["caller"] = caller
        return None

    async def _bound(self, scope: Scope, receive: Receive, send: Send, declared: str | None) -> None:
        """Reads the body, up to the limit, before the application sees it."""
        limit, body, more = self._limits.body_bytes, bytearray(), True
        too_large = declared is not None and declared.isdigit() and int(declared) > limit
        while more and not too_large:
            message = await receive()
            if message["type"] != "http.request":
                return  # the caller has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > limit
        if too_large:
            await fault_response(413, f"the body has more than {limit} bytes")(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
        await self._app(scope, lambda: _next_message(whole, receive), send)


async def _next_message(whole: list[Message], receive: Receive) -> Message:
    return whole.pop() if whole else await receive()


def _log(scope: Scope, status: int, started: float) -> None:
    """One JSON line a request. No header, no query and no body: that is where secrets are."""
    caller = scope.get("state", {}).get("caller")
    line: dict[str, Any] = {
        "time": round(started, 3),
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(time.time() - started, 4),
        "client": (scope.get("client") or [None])[0],
        "token": caller.id if caller else None,
    }
    access_log.info(json.dumps(line))


def start_access_log() -> None:
    """The access log goes to the standard output of the replica, which Ray keeps."""
    if not access_log.handlers:
        access_log.addHandler(logging.StreamHandler(sys.stdout))
        access_log.setLevel(logging.INFO)
        access_log.propagate = False
