"""/api/v1/runs/{name}/tasks: lease, draft, submit, skip, flag, undo; disputes. The caller is the
annotator.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query

from atgen_ray.annotation.human.adjudication import decide, list_disputes
from atgen_ray.annotation.human.progress import measure_progress, measure_team
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.tasks import (
    DecisionBody,
    DraftBody,
    FlagBody,
    LeaseBody,
    SkipBody,
    StateBody,
    SubmitBody,
    TaskBody,
    TaskId,
    TasksBody,
)
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.security.tokens import Caller
from atgen_ray.store.journal import Journal

Id = Annotated[TaskId, Path(description="Example id")]
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[A-Za-z0-9_-]{6,64}$",
        description="Made by the sender for each new request; the same one again is answered as "
        "before and counts once",
    ),
]
Person = Annotated[Caller, allow("admin", "annotator")]
Admin = Annotated[Caller, allow("admin")]


def task_routes(journal: Journal) -> APIRouter:
    """Return the routes of tasks: labelling for annotators and admins, disputes for admins."""
    # A queue is made for each request: the tasks' state is in the database alone.
    router = APIRouter(prefix="/api/v1/runs/{name}/tasks", tags=["tasks"])

    @router.post("/lease")
    def lease_tasks(name: Name, body: LeaseBody, caller: Person) -> TasksBody:
        """Lease tasks: first those that the caller holds, then new ones. The list is empty if no
        task is open for the caller.
        """
        tasks = Queue(journal, name, caller.name).lease(body.count, body.besides)
        return _with_progress(tasks, name, caller)

    @router.get("")
    def list_tasks(name: Name, caller: Person) -> TasksBody:
        """List the caller's latest tasks, held or answered, the oldest first."""
        return _with_progress(Queue(journal, name, caller.name).history(), name, caller)

    @router.get("/progress")
    def show_progress(name: Name, caller: Person) -> dict[str, Any]:
        """Count tasks by state, and measure the caller's own work."""
        return measure_progress(journal, name, caller.name, caller.groups)

    @router.get("/team")
    def show_team(name: Name, caller: Admin) -> dict[str, Any]:
        """Measure throughput, edit rate and agreement of all annotators."""
        return measure_team(journal, name)

    @router.get("/disputes")
    def show_disputes(
        name: Name, caller: Admin, limit: Annotated[int, Query(ge=1, le=200)] = 50
    ) -> list[dict[str, Any]]:
        """List tasks whose answers disagree, or that somebody flagged or skipped, with all answers.

        A task whose `state` is open may still be labelled by others.
        """
        return list_disputes(journal, name, limit)

    @router.put("/{id}/draft")
    def save_draft(name: Name, id: Id, body: DraftBody, caller: Person) -> TaskBody:
        """Save the draft of a label and renew the lease."""
        return TaskBody(
            **Queue(journal, name, caller.name).save_draft(id, body.text, body.revision)
        )

    @router.post("/{id}/submit")
    def submit_label(name: Name, id: Id, body: SubmitBody, key: Key, caller: Person) -> TaskBody:
        """Submit the caller's label."""
        return TaskBody(
            **Queue(journal, name, caller.name).answer(
                key, id, "submitted", body.text, body.seconds
            )
        )

    @router.post("/{id}/skip")
    def skip_task(name: Name, id: Id, body: SkipBody, key: Key, caller: Person) -> TaskBody:
        """Leave the task to somebody else, and then to an admin."""
        return TaskBody(**Queue(journal, name, caller.name).answer(key, id, "skipped", body.reason))

    @router.post("/{id}/flag")
    def flag_task(name: Name, id: Id, body: FlagBody, key: Key, caller: Person) -> TaskBody:
        """Flag the task for an admin."""
        return TaskBody(
            **Queue(journal, name, caller.name).answer(key, id, "flagged", body.comment)
        )

    @router.post("/{id}/undo")
    def undo_answer(name: Name, id: Id, key: Key, caller: Person) -> TaskBody:
        """Undo the caller's own answer, as long as the run has not taken the label."""
        return TaskBody(**Queue(journal, name, caller.name).undo(key, id))

    @router.post("/{id}/decide")
    def decide_task(name: Name, id: Id, body: DecisionBody, caller: Admin) -> StateBody:
        """Settle a dispute, or a task that was skipped."""
        if body.verdict == "label" and not body.text.strip():
            raise ApiError(422, "text is empty, expected the label")
        state = decide(journal, name, id, caller.name, body.verdict, body.text, body.comment)
        return StateBody(id=id, state=state)

    def _with_progress(tasks: list[dict[str, Any]], name: str, caller: Caller) -> TasksBody:
        progress = measure_progress(journal, name, caller.name, caller.groups)
        return TasksBody(tasks=[TaskBody(**task) for task in tasks], progress=progress)

    return router
