"""Sign-in of browsers with a token, and sign-out."""

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.sessions import SIGN_IN, is_own_path, is_same_origin, set_cookie
from atgen_ray.serving.security.tokens import Tokens

SIGN_OUT = "/sign-out"


def session_routes(tokens: Tokens) -> APIRouter:
    """Return the routes of sign-in, which are public, and of sign-out."""
    router = APIRouter(include_in_schema=False)

    @router.get(SIGN_IN)
    def show_form(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
        return render(request, "sign_in.html.j2", next=next, mistake="")

    @router.post(SIGN_IN)
    async def sign_in(request: Request) -> Response:
        if not is_same_origin(request.scope):
            raise ApiError(403, "sign-in must come from the sign-in page itself")
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        token = form.get("token", [""])[0].strip()
        path = form.get("next", [""])[0].strip()
        # The database is not asked for what cannot be a token: not every database takes a NUL.
        sane = token.isascii() and token.isprintable()
        if not sane or await run_in_threadpool(tokens.identify, token) is None:
            mistake = (
                "This token is unknown or was revoked, expected one as `atgen-ray token "
                "create` prints it."
            )
            return render(request, "sign_in.html.j2", 401, next=path, mistake=mistake)
        answer = RedirectResponse(path if is_own_path(path) else "/", 303)
        set_cookie(request, answer, token)
        return answer

    @router.post(SIGN_OUT)
    def sign_out(request: Request) -> Response:
        answer = Response(status_code=204)
        set_cookie(request, answer, "")
        return answer

    return router
