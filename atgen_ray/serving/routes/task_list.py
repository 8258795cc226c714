"""/api/v1/runs/{name}/tasks: the list of tasks by filter, its export, bulk actions and reviews."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from atgen_ray.annotation.human.lead.bulk import BulkActions, BulkRequest
from atgen_ray.annotation.human.lead.reviews import measure_reviews, review_answer
from atgen_ray.annotation.human.lead.task_filter import TaskFilter
from atgen_ray.annotation.human.lead.task_list import TaskList
from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.openapi import describe_files
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.routes.tasks import Admin, Id, Person
from atgen_ray.serving.schemas.task_list import (
    BulkBody,
    BulkDoneBody,
    CountBody,
    ListedTask,
    ListedTasks,
    ReviewBody,
    TaskExport,
    TaskPage,
    UndoneBody,
)
from atgen_ray.serving.schemas.tasks import StateBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal

MEDIA = {"jsonl": "application/x-ndjson", "csv": "text/csv"}
TASK_COLUMNS = ("id", "round", "state", "input", "score", "agreement", "assigned")
ANSWER_COLUMNS = ("annotator", "state", "text", "note", "seconds", "answered", "review")
Number = Annotated[int, Path(ge=1, le=10**9, description="Of the bulk action")]


def task_list_routes(journal: Journal, storage: str) -> APIRouter:
    """Return the routes: admins see all tasks and act on them, annotators see their own."""
    router = APIRouter(prefix="/api/v1/runs/{name}/tasks", tags=["tasks"])

    @router.get("/list")
    def list_tasks_by_filter(
        name: Name, asked: Annotated[TaskPage, Query()], caller: Person
    ) -> ListedTasks:
        """List the tasks that a filter means, page by page; an annotator's are those that they hold
        or answered.
        """
        page = see_tasks(name, caller).read_page(asked, asked.after, asked.limit)
        return ListedTasks(**page)

    @router.get("/count")
    def count_tasks(name: Name, asked: Annotated[TaskFilter, Query()], caller: Person) -> CountBody:
        """Count the tasks that a filter means."""
        states = see_tasks(name, caller).count(asked)
        return CountBody(count=sum(states.values()), states=states)

    @router.get("/choices")
    def list_choices(name: Name, caller: Admin) -> dict[str, Any]:
        """List what filters can name: people, groups, rounds, parts of scores, source columns."""
        return see_tasks(name, caller).read_choices()

    @router.get(
        "/export", response_class=StreamingResponse, responses=describe_files(*MEDIA.values())
    )
    def export_tasks(
        name: Name, asked: Annotated[TaskExport, Query()], caller: Admin
    ) -> StreamingResponse:
        """Download the tasks that a filter means, with single answers, reviews and decisions."""
        found = see_tasks(name, caller)
        rows = found.export(asked)
        count = sum(found.count(asked).values())
        note_export(journal, name, "tasks", asked.format, count, caller.name)
        lines = _write_csv(rows) if asked.format == "csv" else _write_jsonl(rows)
        disposition = f'attachment; filename="{name}-tasks.{asked.format}"'
        return StreamingResponse(
            lines, media_type=MEDIA[asked.format], headers={"Content-Disposition": disposition}
        )

    @router.get("/reviews")
    def show_reviews(name: Name, caller: Admin) -> list[dict[str, Any]]:
        """Count verdicts by annotator, and estimate the share accepted with its Wilson interval
        from the answers that were drawn at random.
        """
        return measure_reviews(journal, name)

    @router.get("/bulk")
    def list_bulk_actions(name: Name, caller: Admin) -> list[dict[str, Any]]:
        """List the latest bulk actions, the last first."""
        return BulkActions(journal, storage, name, caller.name).latest()

    @router.post("/bulk")
    def act_on_tasks(name: Name, body: BulkBody, caller: Admin) -> BulkDoneBody:
        """Act on many tasks at once."""
        request = BulkRequest(
            verb=body.verb,
            ids=body.ids,
            filter=body.filter,
            who=body.who,
            reason=body.reason,
            expected=body.expected,
        )
        return BulkDoneBody(**BulkActions(journal, storage, name, caller.name).act(request))

    @router.post("/bulk/{number}/undo")
    def undo_bulk_action(name: Name, number: Number, caller: Admin) -> UndoneBody:
        """Undo a bulk action; tasks that were changed since stay as they are."""
        return UndoneBody(**BulkActions(journal, storage, name, caller.name).undo(number))

    @router.get("/{id}/detail")
    def show_task(name: Name, id: Id, caller: Person) -> ListedTask:
        """Show one task with its answers and reviews."""
        return ListedTask(**see_tasks(name, caller).read_task(id))

    @router.post("/{id}/review")
    def review_task(name: Name, id: Id, body: ReviewBody, caller: Admin) -> StateBody:
        """Accept a person's answer, correct it, or send it back."""
        state = review_answer(
            journal,
            name,
            id,
            by=caller.name,
            annotator=body.annotator,
            verdict=body.verdict,
            text=body.text,
            comment=body.comment,
            drawn=body.drawn,
        )
        return StateBody(id=id, state=state)

    def see_tasks(name: str, caller: Caller) -> TaskList:
        only = None if caller.role == "admin" else caller.name
        return TaskList(journal, storage, name, only)

    return router


def _write_jsonl(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield encode_json(row).encode() + b"\n"


def _write_csv(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yield a row for each answer; a task without any has one row. Every source column of the
    first tasks has a column.
    """
    yield _to_line([*TASK_COLUMNS, *(f"answer_{name}" for name in ANSWER_COLUMNS), "fields"])
    for row in rows:
        task = [row[name] for name in TASK_COLUMNS[:-1]] + [" ".join(row["assigned"])]
        fields = encode_json(row["fields"])
        for answer in row["answers"] or [dict.fromkeys(ANSWER_COLUMNS)]:
            yield _to_line([*task, *(answer[name] for name in ANSWER_COLUMNS), fields])


def _to_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode("utf-8", "backslashreplace")
