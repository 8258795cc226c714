"""Pages of people: /people for admins, who did what in a run, and the public page of an
invitation.
"""

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from atgen_ray.annotation.human.lead.work import list_payments, list_work
from atgen_ray.core.errors import UserError
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.people import list_people
from atgen_ray.serving.security.grants import to_iso
from atgen_ray.serving.security.invites import PATH, Invite, InviteError, Invites
from atgen_ray.serving.security.login import Sessions
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.security.sessions import is_same_origin, set_cookie
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.audit import Entry, Who
from atgen_ray.store.journal import Journal

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]
LONGEST_KEY = 200


def people_pages(journal: Journal, sessions: Sessions, auditor: Auditor) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(include_in_schema=False)
    invites = Invites(journal.database)
    tokens = Tokens(journal.database)

    @router.get("/people", dependencies=[allow("admin")])
    def people(request: Request) -> Response:
        found: dict[str, Any] = {
            "people": list_people(journal),
            "invites": invites.list(),
            "runs": [total.name for total in journal.totals() if total.archived is None][::-1],
        }
        return render(request, "people.html.j2", **found)

    @router.get("/runs/{name}/people", dependencies=[allow("admin")])
    def work(request: Request, name: Name) -> Response:
        found = list_work(journal, name)
        hours = [hour | {"time": to_iso(hour["start"])} for hour in found["hours"]]
        people = [
            one | {key: to_iso(one[key]) for key in ("first", "last", "seen")}
            for one in found["people"]
        ]
        payments = list_payments(journal, name)
        return render(
            request, "work.html.j2", name=name, people=people, hours=hours, payments=payments
        )

    @router.get(PATH)
    def show_invitation(
        request: Request, key: Annotated[str, Query(max_length=LONGEST_KEY)]
    ) -> Response:
        try:
            invite = invites.find(key)
        except InviteError as error:
            raise ApiError(404, str(error)) from None
        return render(request, "invite.html.j2", invite=invite, key=key, name="", mistake="")

    @router.post(PATH)
    async def accept(request: Request) -> Response:
        if not is_same_origin(request.scope):
            raise ApiError(403, "an invitation must be accepted on its own page")
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        key = form.get("key", [""])[0][:LONGEST_KEY]
        name = form.get("name", [""])[0]
        return await run_in_threadpool(_accept, request, key, name)

    def _accept(request: Request, key: str, name: str) -> Response:
        try:
            invite: Invite = invites.find(key)
            token = invites.accept(key, name)
        except InviteError as error:
            raise ApiError(404, str(error)) from None
        except UserError as error:
            return render(
                request,
                "invite.html.j2",
                422,
                invite=invite,
                key=key,
                name=name,
                mistake=str(error),
            )
        caller = tokens.identify(token)
        if caller is None:  # revoked in this very moment
            raise ApiError(404, "the token that the link made was revoked")
        who = Who(caller.id, caller.name, request.state.address)
        auditor.enter(Entry("page", "accept invitation", who, target=invite.id))
        first = invite.runs[0] if invite.runs and len(invite.runs) == 1 else None
        there = f"/annotate/{first}" if first else "/"
        answer = render(request, "joined.html.j2", token=token, there=there)
        set_cookie(request, answer, sessions.open(caller))
        return answer

    return router
