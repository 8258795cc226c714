"""/api/v1/people and /api/v1/invites: who may come in, invitations, groups; work and payments of a
run.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from atgen_ray.annotation.human.lead.work import list_payments, list_work, write_payments
from atgen_ray.serving.auditing import note
from atgen_ray.serving.openapi import describe_files
from atgen_ray.serving.people import (
    list_members,
    list_people,
    name_tokens,
    revoke_person,
    set_groups,
    set_member,
)
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.grants import Role
from atgen_ray.serving.security.invites import (
    LONGEST_TOKEN_DAYS,
    TOKEN_DAYS,
    Invites,
    read_id,
)
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal

Admin = Annotated[Caller, allow("admin")]
PersonName = Annotated[str, Field(min_length=1, max_length=200)]


class InviteBody(Body):
    """An invitation."""

    role: Role = "annotator"
    runs: list[str] | None = Field(
        None, max_length=100, description="Names of the runs that are shared; null: all"
    )
    groups: list[str] = Field(default_factory=list, max_length=20)
    days: float = Field(7.0, gt=0, le=365, description="Until the link ends")
    uses: int = Field(1, ge=1, le=1000, description="How many people may use it")
    token_days: float = Field(
        TOKEN_DAYS, gt=0, le=LONGEST_TOKEN_DAYS, description="Life of each token that it makes"
    )
    person: PersonName | None = Field(
        None, description="For whom the link is, who may be there already; it is used once"
    )


class LinkBody(BaseModel):
    """A link, which is shown once."""

    link: str = Field(description="Address for whoever is invited")
    message: str


class PersonBody(Body):
    """A person."""

    person: PersonName


class GroupsBody(PersonBody):
    """Groups of a person."""

    groups: list[str] = Field(max_length=20)


class MemberBody(PersonBody):
    """Whether a person may see a run."""

    member: bool


class DoneBody(BaseModel):
    """What was done."""

    message: str


def people_routes(journal: Journal) -> APIRouter:
    """Return the routes, for admins."""
    router = APIRouter(prefix="/api/v1", tags=["people"], dependencies=[allow("admin")])
    invites = Invites(journal.database)

    @router.get("/people")
    def show_people() -> list[dict[str, Any]]:
        """List everybody who has a token, with role, groups, runs and last use."""
        return list_people(journal)

    @router.post("/people/revoke")
    def revoke(request: Request, body: PersonBody) -> DoneBody:
        """End every session of a person and give the tasks in hand to others; answers stay."""
        released = revoke_person(journal, body.person)
        note(request, tokens=name_tokens(journal, body.person), released=released)
        tasks = f"{released} task{'' if released == 1 else 's'} in hand"
        return DoneBody(message=f"{body.person} is signed out for good; {tasks} went back")

    @router.put("/people/groups")
    def group(request: Request, body: GroupsBody) -> DoneBody:
        """Make a person a member of these groups and of no others."""
        set_groups(journal, body.person, body.groups)
        note(request, tokens=name_tokens(journal, body.person), groups=body.groups)
        return DoneBody(message=f"{body.person} is in {', '.join(body.groups) or 'no group'}")

    @router.get("/invites")
    def show_invites() -> list[dict[str, Any]]:
        """List invitations, the newest first; their links are never shown again."""
        return invites.list()

    @router.post("/invites", status_code=201)
    def invite(request: Request, body: InviteBody, caller: Admin) -> LinkBody:
        """Make a link with which people come in under a name of their own choice."""
        path = invites.create(
            caller.name,
            body.role,
            body.runs,
            body.groups,
            body.days,
            body.uses,
            body.person,
            body.token_days,
        )
        note(request, target=read_id(path), role=body.role, runs=body.runs, uses=body.uses)
        link = f"{str(request.base_url).rstrip('/')}{path}"
        return LinkBody(link=link, message="the link is shown once: send it now")

    @router.post("/invites/{id}/revoke")
    def revoke_invite(id: str) -> DoneBody:
        """Make a link invalid; whoever came in by it stays."""
        invites.revoke(id)
        return DoneBody(message="the link is not valid any more")

    @router.get("/runs/{name}/members")
    def show_members(name: Name) -> list[dict[str, Any]]:
        """List the people who may see a run, with role and groups."""
        return list_members(journal, name)

    @router.put("/runs/{name}/members")
    def change_member(request: Request, name: Name, body: MemberBody) -> DoneBody:
        """Share the run with a person, or take it back: open pages and streams of the run end."""
        set_member(journal, body.person, name, body.member)
        note(request, tokens=name_tokens(journal, body.person), member=body.member)
        told = "sees the run" if body.member else "does not see the run any more"
        return DoneBody(message=f"{body.person} {told}")

    @router.get("/runs/{name}/work")
    def show_work(name: Name) -> dict[str, Any]:
        """Show each person's answers by hour, skips, flags, edits, and when they were last seen."""
        return list_work(journal, name)

    @router.get(
        "/runs/{name}/payments", response_class=Response, responses=describe_files("text/csv")
    )
    def export_payments(request: Request, name: Name) -> Response:
        """Download what is to be paid to whom as CSV: person, answers, seconds, accepted, price,
        dollars.
        """
        disposition = {"Content-Disposition": f'attachment; filename="{name}-payments.csv"'}
        payments = list_payments(journal, name)
        text = write_payments(payments)
        note_export(journal, name, "payments", "csv", len(payments), request.state.caller.name)
        return Response(text, media_type="text/csv", headers=disposition)

    return router
