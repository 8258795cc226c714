"""Rendering of templates to responses. All values are escaped: text from data never becomes
markup.
"""

import json
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from atgen_ray.reporting.page import FILTERS
from atgen_ray.serving.pages.assets import asset_root
from atgen_ray.serving.pages.display import show_text
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.sessions import SIGN_IN, csrf_token, is_own_path, read_cookie
from atgen_ray.text.conversation import show_example

if TYPE_CHECKING:
    from jinja2 import Environment

PROGRAMS = ("/api/", "/v1/", "/openapi.json", "/metrics", "/healthz", "/readyz")


@cache
def page_environment() -> "Environment":
    """Return the environment of the templates: those of the pages, then those of the report, whose
    macros they share.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader("atgen_ray.serving.pages"), PackageLoader("atgen_ray.reporting")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        FILTERS, moment=_format_moment, shown=show_text, example=show_example
    )
    environment.globals["assets"] = asset_root()
    return environment


def _format_moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %Y, %H:%M UTC")


def render(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """Return the page that `template` makes of `values`.

    Every template also gets `caller` (None before sign-in), `csrf` for writes by scripts, `path`,
    and `assets`, the path of static files.
    """
    token = read_cookie(request.scope)
    caller: Caller | None = getattr(request.state, "caller", None)
    common = {
        "caller": caller,
        "csrf": csrf_token(token) if caller and token else "",
        "path": request.url.path,
    }
    text = page_environment().get_template(template).render(**common, **values)
    # A lone surrogate, which JSON can carry and UTF-8 cannot, becomes a question mark.
    return HTMLResponse(text.encode("utf-8", "replace"), code)


def wants_page(scope: Scope) -> bool:
    """Return whether a browser asks for a page, rather than a program for data."""
    request = Request(scope)
    asks_html = "text/html" in request.headers.get("accept", "")
    return scope["method"] == "GET" and asks_html and not scope["path"].startswith(PROGRAMS)


def invite_to_sign_in(scope: Scope) -> Response:
    """Return a redirect to the sign-in page, which leads back to the page that was asked for."""
    request = Request(scope)
    url = request.url
    wanted = f"{url.path}?{url.query}" if url.query else url.path
    wanted = wanted if is_own_path(wanted) else "/"
    if request.headers.get("sec-fetch-site") == "cross-site":
        # After a link on another site the browser withholds the strict cookie until a page of
        # this service makes the request.
        return render(request, "again.html.j2", wanted=wanted)
    return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': wanted})}", 303)


def show_error(request: Request, answer: JSONResponse) -> Response:
    """Return an error as a page if a browser asked for one, else as it is."""
    if not wants_page(request.scope):
        return answer
    message = json.loads(bytes(answer.body))["error"]["message"]
    return render(
        request, "error.html.j2", answer.status_code, title=str(answer.status_code), message=message
    )
