"""Errors as HTTP responses, in one shape for every route: that of the OpenAI API.

1. A route raises ApiError, or an error of the project that `MEANINGS` maps to a status.
2. `ErrorMiddleware` turns it into a response; `explain` finds the status of the nearest class.
3. An error without a meaning is logged with a request id, and the caller gets 500 with that id.
4. An error after the status was sent is raised again, so that the connection breaks off.
"""

import errno
import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.core.errors import (
    PoolExhausted,
    RunBusyError,
    StorageFullError,
    StorageUnavailableError,
    UserError,
)
from atgen_ray.core.request_ids import find_id

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
FULL = (errno.ENOSPC, errno.EDQUOT)

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """Error that becomes a response with `status` and one line that says what was expected."""

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """Prepare the error.

        Args:
            retry_after: seconds that a refused caller is told to wait, in place of the default.
            param: the parameter that is wrong, as `method.active.budget`.
            code: what clients tell the error by, in place of its status.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:  # replicas send it to each other
        given = (self.status, self.message, self.retry_after, self.param, self.code)
        return ApiError, given


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the JSON body of an error; a code of its own is its type too, as OpenAI has it."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": message, "type": code or kind, "param": param, "code": code or status}
    return {"error": told}


def error_response(
    status: int,
    message: str,
    retry_after: int | None = None,
    param: str | None = None,
    code: str | None = None,
) -> JSONResponse:
    """Return the response of an error; that of 401 names the scheme expected."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    # JSONResponse refuses what UTF-8 cannot hold, and a message may quote what the caller sent.
    return JSONResponse(error_body(status, _printable(message), param, code), status, headers)


def explain(error: BaseException) -> tuple[int, str] | None:
    """Return status and message of an error that has a meaning over HTTP; None for any other.

    An error raised in a task or actor of Ray is explained by its cause: Ray's text is a traceback.
    """
    while isinstance(error, RayTaskError):
        error = error.cause
    if isinstance(error, OSError) and error.errno in FULL:
        return 507, f"the service has no room left on its disk: {error.strerror}"
    if isinstance(error, RayError) and type(error) is not RayError:
        return 503, f"a part of the service was lost: {_one_line(error)}"
    for kind in type(error).__mro__:
        if kind in MEANINGS:
            status, message = MEANINGS[kind](error)
            return status, message
    return None


# Status and message by class of error; the nearest class decides.
MEANINGS: dict[type[BaseException], Callable[[Any], tuple[int, str]]] = {
    ApiError: lambda error: (error.status, error.message),
    StorageFullError: lambda error: (507, str(error)),
    StorageUnavailableError: lambda error: (503, str(error)),
    RunBusyError: lambda error: (409, str(error)),
    TaskUnknownError: lambda error: (404, str(error)),
    TaskConflictError: lambda error: (409, str(error)),
    UserError: lambda error: (400, str(error)),
    PoolExhausted: lambda error: (400, str(error)),
    RecursionError: lambda _: (400, "the request is nested too deeply"),
    HTTPException: lambda error: (error.status_code, str(error.detail)),
    RequestValidationError: lambda error: (422, _first_mistake(error)),
    BackPressureError: lambda _: (429, "the queue is full"),
    RayServeException: lambda error: (
        503,
        f"a part of the service cannot be reached: {_one_line(error)}",
    ),
}


def answer_error(error: BaseException, retry_after: int) -> JSONResponse | None:
    """Return the response to an error; None for one without a meaning over HTTP."""
    meaning = explain(error)
    if meaning is None:
        return None
    status, message = meaning
    own = error.retry_after if isinstance(error, ApiError) else None
    wait = own or (retry_after if status in (429, 503) else None)
    if isinstance(error, ApiError):
        return error_response(status, message, wait, error.param, error.code)
    return error_response(status, message, wait, _find_param(error))


def add_error_handlers(
    app: FastAPI, retry_after: int, show: Callable[[Request, JSONResponse], Response]
) -> None:
    """Make `app` answer every error; `show` turns the response into a page for a browser."""

    async def handle(request: Request, error: Exception) -> Response:
        answer = answer_error(error, retry_after)
        return Response(status_code=500) if answer is None else show(request, answer)

    # FastAPI answers these two itself unless they have a handler.
    app.add_exception_handler(HTTPException, handle)
    app.add_exception_handler(RequestValidationError, handle)
    app.add_middleware(ErrorMiddleware, retry_after=retry_after, show=show)


class ErrorMiddleware:
    """Middleware that answers every error a route raises. An unforeseen one goes to the log under
    an id, which the caller gets.
    """

    def __init__(
        self, app: ASGIApp, retry_after: int, show: Callable[[Request, JSONResponse], Response]
    ) -> None:
        self._app = app
        self._retry_after = retry_after
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # the boundary of the service
            answer = answer_error(error, self._retry_after) or _answer_unforeseen(scope, error)
            # Once a status was sent, the connection must break off: the answer would seem whole.
            if started:
                raise
            await self._show(Request(scope), answer)(scope, receive, send)


def _answer_unforeseen(scope: Scope, error: Exception) -> JSONResponse:
    request_id = find_id() or uuid4().hex[:12]
    logger.error(
        "request %s: %s %s failed", request_id, scope["method"], scope["path"][:200], exc_info=error
    )
    answer = error_body(
        500, f"something unforeseen went wrong; the service's log tells it as request {request_id}"
    )
    answer["error"]["request_id"] = request_id
    return JSONResponse(answer, 500)


def _find_param(error: BaseException) -> str | None:
    """Return the parameter of the body that a validation error is about."""
    if not isinstance(error, RequestValidationError):
        return None
    place, *keys = error.errors()[0]["loc"]
    # Numbers are places in lists, and kinds of unions stand between keys.
    return ".".join(str(key) for key in keys) or None if place == "body" else None


def _first_mistake(error: RequestValidationError) -> str:
    """Return place and kind of the first mistake, without the value: it may be a secret."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _printable(message: str) -> str:
    return message.encode("utf-8", "backslashreplace").decode()[:2000]
