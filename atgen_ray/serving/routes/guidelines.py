"""/api/v1/runs/{name}/guidelines: versions of the guidelines, and answers of earlier ones; remarks
of annotators on examples.
"""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from atgen_ray.annotation.guidelines import list_guidelines, read_first, read_version
from atgen_ray.annotation.human.lead.guideline_edits import (
    adopt_remark,
    close_remark,
    edit_guidelines,
    list_outdated,
    list_remarks,
    remark,
    send_back,
)
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.guidelines import (
    EditBody,
    GuidelinesBody,
    RemarkBody,
    RemarkedBody,
    RuleBody,
    SendBackBody,
    SentBackBody,
    VersionBody,
)
from atgen_ray.serving.schemas.tasks import TaskId
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

LARGEST = 2**31 - 1  # of a database's integers
Id = Annotated[TaskId, Path(description="Example id")]
Version = Annotated[int, Path(ge=1, le=LARGEST, description="Version of the guidelines")]
RemarkId = Annotated[int, Path(ge=1, le=LARGEST, description="Id of a remark")]
Person = Annotated[Caller, allow("admin", "annotator")]
Admin = Annotated[Caller, allow("admin")]


def guideline_routes(journal: Journal) -> APIRouter:
    """Return the routes of guidelines: reading and remarks for annotators and admins, all else for
    admins.
    """
    router = APIRouter(prefix="/api/v1/runs/{name}", tags=["tasks"])

    @router.get("/guidelines")
    def show_guidelines(name: Name, caller: Person) -> list[GuidelinesBody]:
        """List all versions of the guidelines, the newest first."""
        guidelines = open_task_store(journal, name).config.guidelines
        first = read_first(guidelines, journal.run(name).config)
        with journal.database.reading() as connection:
            found = list_guidelines(connection, name, first)
        return [GuidelinesBody(**asdict(each)) for each in found]

    @router.get("/guidelines/version")
    def show_version(name: Name, caller: Person) -> VersionBody:
        """Return the number of the newest version."""
        open_task_store(journal, name)
        with journal.database.reading() as connection:
            return VersionBody(version=read_version(connection, name))

    @router.put("/guidelines")
    def write_guidelines(name: Name, body: EditBody, caller: Admin) -> VersionBody:
        """Write a new version. Answers keep the number of the version that they were given with."""
        text, reason = body.text, body.reason
        version = edit_guidelines(journal, name, caller.name, text, reason, body.based_on)
        return VersionBody(version=version)

    @router.get("/guidelines/{version}/earlier")
    def show_earlier(
        name: Name,
        version: Version,
        caller: Admin,
        search: Annotated[str, Query(max_length=400)] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> list[dict[str, Any]]:
        """List answers that were given before a version, those that contain `search`."""
        open_task_store(journal, name)
        return list_outdated(journal, name, version, search, limit)

    @router.post("/guidelines/{version}/send-back")
    def send_earlier_back(
        name: Name, version: Version, body: SendBackBody, caller: Admin
    ) -> SentBackBody:
        """Open the tasks again whose answers were given before a version."""
        count = send_back(journal, name, version, caller.name, body.reason, body.search, body.ids)
        return SentBackBody(tasks=count)

    @router.post("/tasks/{id}/remark")
    def remark_on(name: Name, id: Id, body: RemarkBody, caller: Person) -> RemarkedBody:
        """Tell the lead something about an example, without an answer to it."""
        return RemarkedBody(id=remark(journal, name, id, caller.name, body.text))

    @router.get("/remarks")
    def show_remarks(
        name: Name,
        caller: Admin,
        waiting: bool = True,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
    ) -> list[dict[str, Any]]:
        """List the remarks that wait for the lead, or those that were dealt with."""
        open_task_store(journal, name)
        return list_remarks(journal, name, waiting, limit)

    @router.post("/remarks/{remark_id}/rule")
    def make_rule(name: Name, remark_id: RemarkId, body: RuleBody, caller: Admin) -> VersionBody:
        """Make a remark the last line of the guidelines, in a new version."""
        by = caller.name
        version = adopt_remark(journal, name, remark_id, by, body.rule, body.based_on)
        return VersionBody(version=version)

    @router.post("/remarks/{remark_id}/close")
    def dismiss_remark(name: Name, remark_id: RemarkId, caller: Admin) -> RemarkedBody:
        """Take a remark off the list, without a rule."""
        close_remark(journal, name, remark_id)
        return RemarkedBody(id=remark_id)

    return router
