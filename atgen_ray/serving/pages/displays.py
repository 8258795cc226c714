"""Parts of pages that show a text in its form: a task's input with what stands beside it, and the
preview of what somebody writes.
"""

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import Field

from atgen_ray.annotation.human.task_store import TaskStore, open_task_store
from atgen_ray.config.annotators.people import DisplayKind
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.serving.pages.display import show_text
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.schemas.tasks import LONGEST, TaskId
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]


class PreviewBody(Body):
    """A text to show in its form."""

    text: str = Field(max_length=LONGEST)
    kind: DisplayKind = "auto"


def display_parts(journal: Journal) -> APIRouter:
    """Return the routes of the parts, for annotators and admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}/display/{id}", dependencies=[allow("admin", "annotator")])
    def display(request: Request, name: Name, id: TaskId) -> Response:
        store = open_task_store(journal, name)
        with journal.database.reading() as connection:
            task = store.task(connection, id)
        return render(request, "display.html.j2", **show_task(task, store))

    @router.post("/annotate/{name}/preview", dependencies=[allow("admin", "annotator")])
    def preview(request: Request, name: Name, body: PreviewBody) -> Response:
        return render(request, "preview.html.j2", shown=show_text(body.text, body.kind))

    return router


def show_task(task: sa.RowMapping, store: TaskStore) -> dict[str, Any]:
    """Return the `input` of a task and the `context` beside it, each as a ShownText."""
    return {
        "input": show_text(task["input"], store.config.display, window=task["window"]),
        "context": {
            column: show_text(text, column=column) for column, text in task["context"] or ()
        },
    }
