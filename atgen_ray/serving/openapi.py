"""OpenAPI description of the service, from which clients can be generated: unique names of
operations, security schemes, and every error that a route may answer.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

ERROR = {
    "title": "ErrorBody",
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"$ref": "#/components/schemas/ErrorDetail"}},
}
DETAIL = {
    "title": "ErrorDetail",
    "type": "object",
    "required": ["message", "type", "code"],
    "properties": {
        "message": {
            "type": "string",
            "title": "Message",
            "description": "One line: what was wrong and expected",
        },
        "type": {"type": "string", "title": "Type"},
        "param": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Param"},
        "code": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "title": "Code",
            "description": "The status once more, or a word for the error: insufficient_quota",
        },
        "request_id": {
            "type": "string",
            "title": "Request Id",
            "description": "With 500: the id under which the log has the error",
        },
    },
}
SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "As `atgen-ray token create` prints it",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "atgen",
        "description": "Of the sign-in page (behind TLS, __Host-atgen); a write needs "
        "X-CSRF-Token beside it",
    },
}
MEANINGS = {
    400: "The request cannot be fulfilled as it is",
    401: "No valid token",
    403: "The token has another role, or a write with a cookie comes from elsewhere",
    404: "Nothing has that name",
    408: "The body did not arrive in time",
    409: "The request conflicts with what exists already",
    413: "The body is too large",
    422: "The request has another form than expected",
    429: "Too many requests are under way; Retry-After says when to try again",
    500: "An unforeseen error; the log has it under `request_id`",
    503: "A part that the service needs cannot be used now",
    507: "No room is left on the service's disk",
}
PUBLIC = ("/healthz", "/readyz")


def describe_text(media: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that answers with text of one media type."""
    return {200: {"content": {media: {"schema": {"type": "string"}}}}}


def describe_files(*media: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that answers with a file of one of these media types."""
    return {
        200: {
            "content": {each: {"schema": {"type": "string", "format": "binary"}} for each in media}
        }
    }


def name_operation(route: APIRoute) -> str:
    """Return the name of the route's function as that of its operation: short and unique."""
    return route.name


def describe_api(app: FastAPI) -> None:
    """Give `app` its description, which is made on the first request for it."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(title=app.title, version=app.version, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema["components"]
    # FastAPI's own shapes of errors, which are never sent.
    parts["schemas"].pop("HTTPValidationError", None)
    parts["schemas"].pop("ValidationError", None)
    parts["schemas"] |= {"ErrorBody": ERROR, "ErrorDetail": DETAIL}
    parts["securitySchemes"] = SCHEMES
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            _complete_operation(path, method, operation)
    return schema


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    operation["security"] = [] if path in PUBLIC else [{name: []} for name in SCHEMES]
    for status in _list_errors(path, method, operation):
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
        operation["responses"][str(status)] = {"description": MEANINGS[status], "content": content}


def _list_errors(path: str, method: str, operation: dict[str, Any]) -> Iterator[int]:
    """Yield the statuses of errors that a route may answer beside those it declares; any route may
    meet a full queue or a lost database.
    """
    if path in PUBLIC:
        return
    yield from (401, 403, 429, 500, 503)
    if "requestBody" in operation:
        yield from (408, 413)
    if "requestBody" in operation or "parameters" in operation:
        yield from (400, 422)
    if "parameters" in operation or ("requestBody" in operation and path.startswith("/v1/")):
        yield 404
    if method != "get" and path.startswith("/api/v1/runs"):
        yield 409
    if method != "get" and path.startswith(("/api/v1/runs", "/api/v1/uploads", "/api/v1/select")):
        yield 507
