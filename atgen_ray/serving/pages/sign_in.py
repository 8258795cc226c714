"""Sign-in of browsers with a token, and sign-out."""

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.sessions import SIGN_IN, is_own_path, is_same_origin, set_cookie
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import Entry, Who

SIGN_OUT = "/sign-out"


def session_routes(tokens: Tokens, sessions: Sessions, auditor: Auditor) -> APIRouter:
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
        caller = await run_in_threadpool(tokens.identify, token) if sane else None
        if caller is None:
            mistake = (
                "This token is unknown or was revoked, expected one as `atgen-ray token "
                "create` prints it."
            )
            return render(request, "sign_in.html.j2", 401, next=path, mistake=mistake)
        answer = RedirectResponse(path if is_own_path(path) else "/", 303)
        set_cookie(request, answer, await run_in_threadpool(sessions.open, caller))
        who = Who(caller.id, caller.name, request.state.address)
        await run_in_threadpool(auditor.enter, Entry("page", "sign in", who))
        return answer

    @router.post(SIGN_OUT)
    def sign_out(request: Request) -> Response:
        sessions.close(request.state.caller)
        answer = Response(status_code=204)
        set_cookie(request, answer, "")
        return answer

    return router
