"""What stands before every route: the token, size and time of the body, the number of requests, and
the log.

Plain ASGI, so that a request is refused before its body is read.
"""

import asyncio
import json
import logging
import re
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atgen_ray.config import LimitsConfig
from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.serving.errors import ApiError, fault_response
from atgen_ray.serving.pages.assets import STATIC
from atgen_ray.serving.pages.rendering import invite_to_sign_in, wants_page
from atgen_ray.serving.security.body_limits import (
    BodyReader,
    CallerGoneError,
    hurry,
    read_body,
    replay,
    too_slow,
)
from atgen_ray.serving.security.concurrency import ConcurrencyLimit
from atgen_ray.serving.security.sessions import CSRF_HEADER, SIGN_IN, is_own_write, read_cookie
from atgen_ray.serving.security.tokens import Caller, Tokens
from atgen_ray.serving.uploads import UPLOADS

PUBLIC = frozenset({"/healthz", "/readyz"})
EVENTS = re.compile(r"/api/v1/runs/[^/]+/events")
SIGN_IN_BYTES = 8_192  # a token and a path
CLIENT_CLOSED = 499  # as nginx says it: the caller went away before the answer began
access_log = logging.getLogger("atgen_ray.access")


class AuthMiddleware:
    """Wraps the application; `scope["state"]["caller"]` is set for every route but the few that are
    open to all.

    Programs show their token in a header, browsers in a cookie. Nothing of a body is read before
    the token was checked. Sign-in, which has none, has places of its own, and so have streams of
    events, which stay for hours.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, limits: LimitsConfig) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = limits
        self._newcomers = BodyReader(limits.sign_ins)
        self._sign_ins = ConcurrencyLimit("sign-ins", limits.sign_ins)
        self._checks = ConcurrencyLimit("requests", limits.requests)
        self._requests = ConcurrencyLimit("requests", limits.requests)
        self._streams = ConcurrencyLimit("event streams", limits.streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.time()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, watched)
        except ApiError as fault:
            await self._refuse(fault)(scope, receive, watched)
        except StorageUnavailableError as error:  # the tokens cannot be looked up
            await fault_response(503, str(error), self._limits.retry_after)(scope, receive, watched)
        except (CallerGoneError, ClientDisconnect):
            status = status or CLIENT_CLOSED
        except asyncio.CancelledError:  # Serve ends a request so when its caller has gone
            status = status or CLIENT_CLOSED
            raise
        finally:
            _log(scope, status or 500, started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in PUBLIC or path.startswith(STATIC):  # they read no body
            await self._app(scope, receive, send)
        elif path == SIGN_IN:
            await self._sign_in(scope, receive, send)
        else:
            with self._checks.take():
                refusal = await self._find_caller(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            with self._take_place(scope):
                await self._pass_on(scope, receive, send)

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._newcomers.read(self._limits.sign_in_seconds):
                body = await read_body(scope, receive, SIGN_IN_BYTES)
        except TimeoutError:
            raise too_slow() from None
        with self._sign_ins.take():
            await self._app(scope, replay(body, receive), send)

    def _take_place(self, scope: Scope) -> AbstractContextManager[None]:
        caller: Caller = scope["state"]["caller"]
        if EVENTS.fullmatch(scope["path"]):
            return self._streams.take(caller.id, self._limits.token_streams)
        return self._requests.take(
            caller.id, None if caller.role == "admin" else self._limits.annotator_requests
        )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        if scope["path"].startswith(UPLOADS):  # they are written as they come, and counted there
            await self._app(scope, hurry(receive, limits.body_seconds, limits.upload_seconds), send)
            return
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await read_body(scope, receive, limits.body_bytes)
        except TimeoutError:
            raise too_slow() from None
        await self._app(scope, replay(body, receive), send)

    def _refuse(self, fault: ApiError) -> Response:
        refusal = fault_response(
            fault.status, fault.message, self._limits.retry_after if fault.status == 429 else None
        )
        if (
            fault.status == 408
        ):  # or the connection would stay as long as the rest of the body is kept back
            refusal.headers["Connection"] = "close"
        return refusal

    async def _find_caller(self, scope: Scope) -> Response | None:
        """Finds out who calls; an answer for one who may not come in."""
        given = Headers(scope=scope).get("authorization")
        cookie = read_cookie(scope)
        scheme, _, token = (
            given.partition(" ") if given is not None else ("bearer", "", cookie or "")
        )
        known = scheme.lower() == "bearer" and token  # without a token there is nothing to look up
        caller = await to_thread.run_sync(self._tokens.identify, token) if known else None
        if caller is None:
            if given is None and wants_page(scope):
                return invite_to_sign_in(scope)
            return fault_response(401, "expected a valid token: Authorization: Bearer TOKEN")
        if given is None and not is_own_write(scope, token):
            return fault_response(
                403, f"a write with a cookie needs {CSRF_HEADER} from a page of this service"
            )
        scope.setdefault("state", {})["caller"] = caller
        return None


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
