"""/api/v1/runs/{name}/tasks: lease, draft, submit, skip, flag, undo; disputes. The caller is the
annotator.
"""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query

from atgen_ray.annotation.human.draft_experiment import measure_drafts
from atgen_ray.annotation.human.gold import show_quiz
from atgen_ray.annotation.human.lead.adjudication import (
    accept_agreeing,
    ask_another,
    decide,
    list_disputes,
    undo_decision,
)
from atgen_ray.annotation.human.progress import measure_progress, measure_team
from atgen_ray.annotation.human.queue import HISTORY, Queue
from atgen_ray.annotation.human.revision import correct_label, list_revisions
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.tasks import (
    AcceptBody,
    AcceptedBody,
    CorrectionBody,
    DecisionBody,
    DraftBody,
    FlagBody,
    LeaseBody,
    QuizBody,
    ReleaseBody,
    ReleasedBody,
    SkipBody,
    StateBody,
    SubmitBody,
    TaskBody,
    TaskId,
    TasksBody,
    TasksOnly,
)
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
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
Limit = Annotated[int, Query(ge=1, le=HISTORY)]
Before = Annotated[TaskId | None, Query(description="Answered earlier than this one")]
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
        tasks = _queue(name, caller).lease(body.count, body.besides, body.ahead, body.hand)
        return _with_progress(tasks, name, caller)

    @router.post("/release")
    def release_tasks(name: Name, body: ReleaseBody, caller: Person) -> ReleasedBody:
        """Give leases up, as when the page is left. What was typed stays."""
        return ReleasedBody(released=_queue(name, caller).release(body.ids))

    @router.get("")
    def list_tasks(
        name: Name, caller: Person, limit: Limit = HISTORY, before: Before = None
    ) -> TasksBody:
        """List the caller's latest tasks, the oldest first: those answered, and then those held."""
        return _with_progress(_queue(name, caller).history(limit, before), name, caller)

    @router.get("/open")
    def look_at_tasks(
        name: Name,
        caller: Person,
        count: Annotated[int, Query(ge=1, le=20)] = 5,
        after: Annotated[TaskId | None, Query(description="Behind this one in the queue")] = None,
    ) -> TasksOnly:
        """Look at open tasks that the caller could lease. None is leased."""
        found = _queue(name, caller).look(after, count)
        return TasksOnly(tasks=[TaskBody(**task) for task in found])

    @router.get("/progress")
    def show_progress(name: Name, caller: Person) -> dict[str, Any]:
        """Count tasks by state, and measure the caller's own work."""
        return measure_progress(journal, name, caller.name, caller.groups)

    @router.get("/quiz")
    def show_quiz_state(name: Name, caller: Person) -> QuizBody:
        """Tell how the caller stands in the quiz, with the right answer to each question that the
        caller has answered.
        """
        return QuizBody(**show_quiz(journal, name, caller.name))

    @router.get("/team")
    def show_team(name: Name, caller: Admin) -> dict[str, Any]:
        """Measure throughput, edit rate and agreement of all annotators."""
        return measure_team(journal, name)

    @router.get("/drafts")
    def show_drafts(name: Name, caller: Admin) -> dict[str, Any]:
        """Measure what drafts do, where `annotator.drafts` is `experiment`; `effects` is empty
        before both halves have answers to ten examples.
        """
        open_task_store(journal, name)
        found = measure_drafts(journal, name)
        if found is None:
            raise ApiError(409, f"run '{name}' has another annotator.drafts than 'experiment'")
        return asdict(found)

    @router.get("/disputes")
    def show_disputes(
        name: Name,
        caller: Admin,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> list[dict[str, Any]]:
        """List tasks whose answers disagree, or that somebody flagged or skipped, with all answers.

        A task whose `state` is open may still be labelled by others.
        """
        return list_disputes(journal, name, limit, offset)

    @router.post("/disputes/accept")
    def accept_disputes(name: Name, body: AcceptBody, caller: Admin) -> AcceptedBody:
        """Label each dispute whose answers agree by `at_least` with the answer that is nearest to
        all others.
        """
        return AcceptedBody(ids=accept_agreeing(journal, name, body.at_least, caller.name))

    @router.put("/{id}/draft")
    def save_draft(name: Name, id: Id, body: DraftBody, caller: Person) -> TaskBody:
        """Save the draft of a label and renew the lease."""
        return TaskBody(**_queue(name, caller).save_draft(id, body.text, body.revision))

    @router.post("/{id}/lease")
    def lease_task(name: Name, id: Id, caller: Person) -> TaskBody:
        """Lease this one task, or renew the lease on it."""
        return TaskBody(**_queue(name, caller).take(id))

    @router.post("/{id}/submit")
    def submit_label(name: Name, id: Id, body: SubmitBody, key: Key, caller: Person) -> TaskBody:
        """Submit the caller's label, or change it until the run trains on it."""
        return TaskBody(
            **_queue(name, caller).answer(
                key, id, "submitted", body.text, body.seconds, body.guidelines
            )
        )

    @router.post("/{id}/skip")
    def skip_task(name: Name, id: Id, body: SkipBody, key: Key, caller: Person) -> TaskBody:
        """Leave the task to somebody else, and then to an admin."""
        return TaskBody(**_queue(name, caller).answer(key, id, "skipped", body.reason))

    @router.post("/{id}/flag")
    def flag_task(name: Name, id: Id, body: FlagBody, key: Key, caller: Person) -> TaskBody:
        """Flag the task for an admin."""
        return TaskBody(**_queue(name, caller).answer(key, id, "flagged", body.comment))

    @router.post("/{id}/undo")
    def undo_answer(name: Name, id: Id, key: Key, caller: Person) -> TaskBody:
        """Undo the caller's own answer, as long as the run has not trained on the label."""
        return TaskBody(**_queue(name, caller).undo(key, id))

    @router.post("/{id}/decide")
    def decide_task(name: Name, id: Id, body: DecisionBody, caller: Admin) -> StateBody:
        """Settle a dispute, or a task that was skipped."""
        if body.verdict == "label" and not body.text.strip():
            raise ApiError(422, "text is empty, expected the label")
        state = decide(journal, name, id, caller.name, body.verdict, body.text, body.comment)
        return StateBody(id=id, state=state)

    @router.post("/{id}/decide/undo")
    def undo_task_decision(name: Name, id: Id, caller: Admin) -> StateBody:
        """Take a decision back, as long as the run has not taken it."""
        return StateBody(id=id, state=undo_decision(journal, name, id, caller.name))

    @router.post("/{id}/ask")
    def ask_another_person(name: Name, id: Id, caller: Admin) -> StateBody:
        """Ask one more person instead of deciding a dispute; the price of the answer is
        reserved.
        """
        return StateBody(id=id, state=ask_another(journal, name, id))

    @router.post("/{id}/correct")
    def correct_task(name: Name, id: Id, body: CorrectionBody, caller: Admin) -> StateBody:
        """Make a text the label of the task, whatever its state, with a history."""
        state = correct_label(journal, name, id, caller.name, body.text, body.reason)
        return StateBody(id=id, state=state)

    @router.get("/{id}/history")
    def show_history(name: Name, id: Id, caller: Admin) -> list[dict[str, Any]]:
        """List who changed answers and label of a task, when, from what to what, and why."""
        return list_revisions(journal, name, id)

    def _queue(name: str, caller: Caller) -> Queue:
        return Queue(journal, name, caller.name, caller.groups)

    def _with_progress(tasks: list[dict[str, Any]], name: str, caller: Caller) -> TasksBody:
        progress = measure_progress(journal, name, caller.name, caller.groups)
        return TasksBody(tasks=[TaskBody(**task) for task in tasks], progress=progress)

    return router
