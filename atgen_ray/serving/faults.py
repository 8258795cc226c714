"""What goes wrong, as HTTP: one shape for every route, that of the OpenAI API."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException

from atgen_ray.annotation.people.desk import TaskConflict, TaskUnknown
from atgen_ray.errors import NobodyDrivesError, OutOfOrder, RunBusy, UserError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Fault(Exception):
    """An answer with `status` and one line that says what was expected."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def __reduce__(self) -> tuple[Any, ...]:  # it travels between replicas
        return Fault, (self.status, self.message)


def describe_fault(status: int, message: str) -> dict[str, Any]:
    """The body of an answer that is an error."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def fault_response(status: int, message: str, retry_after: int | None = None) -> JSONResponse:
    """The whole answer; 401 says which scheme is expected."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    # JSONResponse refuses what UTF-8 cannot hold, and a message may quote what the caller sent.
    return JSONResponse(describe_fault(status, _printable(message)), status, headers)


def explain_faults(app: FastAPI, retry_after: int, show: Callable[[Request, JSONResponse], Response]) -> None:
    """Every exception that has a meaning over HTTP, as its answer; `show` makes a page of it where a person reads."""

    def answer(handle: Callable[[Any], JSONResponse]) -> Any:
        async def handler(request: Request, error: Exception) -> Response:
            return show(request, handle(error))

        return handler

    def tell(fault: Fault) -> JSONResponse:
        return fault_response(fault.status, fault.message, retry_after if fault.status == 429 else None)

    app.add_exception_handler(Fault, answer(tell))
    app.add_exception_handler(OutOfOrder, answer(lambda e: fault_response(503, str(e), retry_after)))
    app.add_exception_handler(RunBusy, answer(lambda e: fault_response(409, str(e))))
    app.add_exception_handler(NobodyDrivesError, answer(lambda e: fault_response(409, str(e))))
    app.add_exception_handler(TaskUnknown, answer(lambda e: fault_response(404, str(e))))
    app.add_exception_handler(TaskConflict, answer(lambda e: fault_response(409, str(e))))
    app.add_exception_handler(UserError, answer(lambda e: fault_response(400, str(e))))
    app.add_exception_handler(HTTPException, answer(lambda e: fault_response(e.status_code, str(e.detail))))
    app.add_exception_handler(RequestValidationError, answer(lambda e: fault_response(422, _first_mistake(e))))
    app.add_exception_handler(
        BackPressureError, answer(lambda _: fault_response(429, "the queue is full", retry_after))
    )


def _first_mistake(error: RequestValidationError) -> str:
    """Where and what, without the value: it may be a secret."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return f"{where}: {first['msg']}"


def _printable(message: str) -> str:
    return message.encode("utf-8", "backslashreplace").decode()[:2000]
