"""Middleware in front of every route: authentication, limits on bodies and on concurrent requests,
and the access log.

It is plain ASGI, so that a request is refused before its body is read. Invariant: no byte of a body
is read before the token was checked, except for sign-in, which has slots of its own.
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
from atgen_ray.serving.auditing import Auditor, classify, describe, find_address
from atgen_ray.serving.errors import ApiError, error_response
from atgen_ray.serving.pages.assets import STATIC
from atgen_ray.serving.pages.rendering import invite_to_sign_in, wants_page
from atgen_ray.serving.security.body_limits import (
    BodyReader,
    CallerGoneError,
    limit_time,
    read_body,
    replay,
    slow_body_error,
)
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.concurrency import ConcurrencyLimit
from atgen_ray.serving.security.invites import PATH as INVITE
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.rates import RequestRates
from atgen_ray.serving.security.sessions import CSRF_HEADER, SIGN_IN, is_own_write, read_cookie
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.serving.uploads import is_upload

PUBLIC = frozenset({"/healthz", "/readyz"})
EVENTS = re.compile(r"/api/v1/runs/[^/]+/events")
SIGN_IN_BYTES = 8_192  # a token and a path, or the key of an invitation and a name
REFUSED = (401, 403)
CLIENT_CLOSED = 499  # nginx's status for a caller that left before the answer began
access_log = logging.getLogger("atgen_ray.access")


class AuthMiddleware:
    """Middleware that identifies the caller and sets `scope["state"]["caller"]` for every route
    that is not public.

    Programs send their token in a header, browsers the secret of a session in a cookie. Sign-in,
    which has no token yet, has slots of its own, and so have event streams, which stay open for
    hours. What changes something is entered in the audit log, and so is what was refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        sessions: Sessions,
        auditor: Auditor,
        limits: LimitsConfig,
        proxies: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._sessions = sessions
        self._auditor = auditor
        self._limits = limits
        self._proxies = proxies
        self._rates = RequestRates()
        self._unknown_bodies = BodyReader(limits.sign_ins)
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
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await error_response(503, str(error), self._limits.retry_after)(scope, receive, watched)
        except (CallerGoneError, ClientDisconnect):
            status = status or CLIENT_CLOSED
        except asyncio.CancelledError:  # how Serve ends a request whose caller left
            status = status or CLIENT_CLOSED
            raise
        finally:
            _log(scope, status or 500, started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in PUBLIC or path.startswith(STATIC):  # these routes read no body
            await self._app(scope, receive, send)
        elif path in (SIGN_IN, INVITE):  # who comes has no token yet
            await self._sign_in(scope, receive, send)
        else:
            with self._checks.take():
                refusal = await self._find_caller(scope)
            if refusal is not None:
                if refusal.status_code in REFUSED:
                    self._auditor.refuse(scope, self._address(scope), refusal.status_code)
                await refusal(scope, receive, send)
                return
            self._rates.take(scope["state"]["caller"], self._limits.minute_requests)
            with self._take_slot(scope):
                await self._pass_on(scope, receive, send)

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._unknown_bodies.read(self._limits.sign_in_seconds):
                body = await read_body(scope, receive, SIGN_IN_BYTES)
        except TimeoutError:
            raise slow_body_error() from None
        scope.setdefault("state", {})["address"] = self._address(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (*REFUSED, 404):
                self._auditor.refuse(scope, self._address(scope), message["status"])
            await send(message)

        with self._sign_ins.take():
            await self._app(scope, replay(body, receive), watched)

    def _take_slot(self, scope: Scope) -> AbstractContextManager[None]:
        caller: Caller = scope["state"]["caller"]
        if EVENTS.fullmatch(scope["path"]):
            return self._streams.take(caller.id, self._limits.token_streams)
        return self._requests.take(
            caller.id, None if caller.role == "admin" else self._limits.annotator_requests
        )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        if is_upload(scope["method"], scope["path"]):  # the route writes and counts it in parts
            await self._enter(
                scope, limit_time(receive, limits.body_seconds, limits.upload_seconds), send
            )
            return
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await read_body(scope, receive, limits.body_bytes)
        except TimeoutError:
            raise slow_body_error() from None
        await self._enter(scope, replay(body, receive), send)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on to its route, and enter in the audit log what it did."""
        caller: Caller = scope["state"]["caller"]
        address = self._address(scope)
        kind = classify(scope, caller)
        begun = None
        if kind == "entered":
            begun = await to_thread.run_sync(self._auditor.begin, scope, caller, address)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if begun is not None:  # whoever gets the answer finds it in the log
                    await to_thread.run_sync(self._auditor.end, begun, scope, status)
                elif kind == "exported":
                    await to_thread.run_sync(
                        self._auditor.enter, describe(scope, caller, address, str(status))
                    )
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if status in REFUSED and begun is None:
                self._auditor.refuse(scope, address, status, caller)
            elif kind == "counted":
                self._auditor.count(scope, caller, address, status or CLIENT_CLOSED)
            elif begun is not None and not status:  # nobody waits for the answer any more
                loop = asyncio.get_running_loop()
                loop.run_in_executor(None, self._auditor.end, begun, scope, CLIENT_CLOSED)

    def _address(self, scope: Scope) -> str | None:
        return find_address(scope, self._proxies)

    def _refuse(self, fault: ApiError) -> Response:
        refusal = error_response(
            fault.status,
            fault.message,
            fault.retry_after or (self._limits.retry_after if fault.status == 429 else None),
        )
        if fault.status == 408:
            # Otherwise the connection would stay open until the rest of the body comes.
            refusal.headers["Connection"] = "close"
        return refusal

    async def _find_caller(self, scope: Scope) -> Response | None:
        """Identify the caller. Return None, or the response that refuses an unknown caller."""
        given = Headers(scope=scope).get("authorization")
        cookie = read_cookie(scope)
        caller = None
        if given is not None:
            scheme, _, token = given.partition(" ")
            if scheme.lower() == "bearer" and token:
                caller = await to_thread.run_sync(self._tokens.identify, token)
        elif cookie:
            caller = await to_thread.run_sync(self._sessions.identify, cookie)
        if caller is None:
            if given is None and wants_page(scope):
                return invite_to_sign_in(scope)
            return error_response(401, "expected a valid token: Authorization: Bearer TOKEN")
        # A browser sends the cookie with requests of any site: a write must prove its origin.
        if given is None and not is_own_write(scope, cookie or ""):
            return error_response(
                403, f"a write with a cookie needs {CSRF_HEADER} from a page of this service"
            )
        scope.setdefault("state", {})["caller"] = caller
        return None


def _log(scope: Scope, status: int, started: float) -> None:
    """Log one JSON line a request, without headers, query and body: those may hold secrets."""
    caller = scope.get("state", {}).get("caller")
    line: dict[str, Any] = {
        "time": round(started, 3),
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(time.time() - started, 4),
        "client": (scope.get("client") or [None])[0],
        "token": caller.id if caller else None,
        "request_id": scope.get("state", {}).get("request_id"),
    }
    access_log.info(json.dumps(line))


def start_access_log() -> None:
    """Send the access log to the standard output of the replica, which Ray keeps."""
    if not access_log.handlers:
        access_log.addHandler(logging.StreamHandler(sys.stdout))
        access_log.setLevel(logging.INFO)
        access_log.propagate = False
