"""Pages of the task list, and of one task with its answers and their review."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.lead.bulk import BulkActions
from atgen_ray.annotation.human.lead.reviews import measure_reviews
from atgen_ray.annotation.human.lead.task_filter import TaskFilter
from atgen_ray.annotation.human.lead.task_list import TaskList
from atgen_ray.annotation.human.revision import list_revisions
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.pages.tasks import Name
from atgen_ray.serving.schemas.task_list import PAGE, TaskPage
from atgen_ray.serving.schemas.tasks import TaskId
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal
from atgen_ray.text.conversation import show_example

EXCERPT = 240  # characters of an input in the list
REVIEW: dict[str, Any] = {
    "state": ["answered", "taken"],
    "did": "submitted",
    "review": "none",
    "sort": "random",
}
VIEWS: list[tuple[str, dict[str, Any]]] = [
    ("All", {}),
    ("Open", {"state": ["open"]}),
    ("To review, at random", REVIEW),
    ("Flagged", {"did": "flagged", "sort": "newest"}),
    ("Skipped", {"did": "skipped", "sort": "newest"}),
    ("Least agreement", {"sort": "agreement"}),
    ("Highest score", {"sort": "-score"}),
    ("Sent back", {"review": "returned", "sort": "newest"}),
]
OWN_VIEWS = [
    view for view in VIEWS if view[0] in ("All", "Open", "Flagged", "Skipped", "Sent back")
]
Id = Annotated[TaskId, Path()]
Person = Annotated[Caller, allow("admin", "annotator")]


def task_list_pages(journal: Journal, storage: str) -> APIRouter:
    """Return the routes of the pages: admins see all tasks, annotators their own."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}/tasks")
    def tasks(
        request: Request, name: Name, asked: Annotated[TaskPage, Query()], caller: Person
    ) -> Response:
        admin = caller.role == "admin"
        listing = _see_tasks(journal, storage, name, caller)
        filter = _filter_of(asked)
        found = listing.read_page(asked, asked.after, asked.limit)
        for task in found["tasks"]:
            task["excerpt"] = _cut(show_example(task["input"]), asked.q)
        return render(
            request,
            "tasks.html.j2",
            name=name,
            filter=asked,
            query=_to_query(filter),
            next=_to_query(filter | {"after": found["next"]}) if found["next"] else None,
            first=asked.after is not None,
            tasks=found["tasks"],
            views=[(title, _to_query(view)) for title, view in (VIEWS if admin else OWN_VIEWS)],
            choices=listing.read_choices() if admin else None,
            actions=_describe_actions(journal, storage, name, caller) if admin else [],
            reviews=measure_reviews(journal, name) if admin else [],
            review_query=lambda person: _to_query(REVIEW | {"person": person}),
            page=PAGE,
        )

    @router.get("/annotate/{name}/tasks/{id}")
    def task(
        request: Request,
        name: Name,
        id: Id,
        asked: Annotated[TaskPage, Query()],
        caller: Person,
    ) -> Response:
        listing = _see_tasks(journal, storage, name, caller)
        filter = _filter_of(asked)
        found = listing.read_task(id)
        following = listing.find_next(asked, id)
        admin = caller.role == "admin"
        return render(
            request,
            "task.html.j2",
            name=name,
            task=found,
            display=open_task_store(journal, name).config.display,
            query=_to_query(filter),
            next=following,
            drawn=asked.sort == "random",
            history=_describe_history(journal, name, found) if admin else [],
            show_time=show_time,
        )

    return router


def show_time(time: float) -> str:
    """Return a time in seconds since 1970 as a person reads it, in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _see_tasks(journal: Journal, storage: str, name: str, caller: Caller) -> TaskList:
    only = None if caller.role == "admin" else caller.name
    return TaskList(journal, storage, name, only)


def _filter_of(asked: TaskPage) -> dict[str, Any]:
    """Return the conditions of a page's address, without the place in the list."""
    names = set(TaskFilter.model_fields)
    return asked.model_dump(include=names, exclude_defaults=True)


def _to_query(values: dict[str, Any]) -> str:
    """Return a query string with its question mark, or nothing without values."""
    plain = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in values.items()
    }
    return f"?{urlencode(plain, doseq=True)}" if plain else ""


def _cut(text: str, words: str) -> str:
    """Return a piece of a text, with what was searched in it where that is found."""
    flat = " ".join(text.split())
    at = flat.lower().find(words.lower()) if words else 0
    begin = max(0, at - EXCERPT // 3)
    piece = flat[begin : begin + EXCERPT]
    return f"{'… ' if begin else ''}{piece}{' …' if begin + EXCERPT < len(flat) else ''}"


WORDS = {
    "next": "to the head of the queue",
    "last": "to the end of the queue",
    "usual": "to their usual place in the queue",
    "assign": "kept",
    "drop": "dropped",
    "reopen": "opened again",
}


def _describe_actions(
    journal: Journal, storage: str, name: str, caller: Caller
) -> list[dict[str, Any]]:
    """Return the latest bulk actions in words."""
    found = BulkActions(journal, storage, name, caller.name).latest()
    for action in found:
        words = WORDS[action["verb"]]
        if action["verb"] == "assign":
            words = f"kept for {', '.join(action['detail']['who']) or 'everybody'}"
        reason = action["detail"].get("reason")
        action["words"] = words + (f": {reason}" if reason else "")
        action["when"] = show_time(action["time"])
        action["undoable"] = action["undone"] is None and action["verb"] != "reopen"
    return found


def _describe_history(journal: Journal, name: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was changed about a task, and by whom, the oldest first."""
    changes = list_revisions(journal, name, task["id"])
    lines = [
        {
            "time": each["time"],
            "by": each["by"],
            "what": each["kind"] + (f" ({each['annotator']})" if each["annotator"] else ""),
            "text": each["after"] or each["before"],
            "comment": each["reason"],
        }
        for each in changes
    ]
    lines += [
        {
            "time": each["time"],
            "by": each["by"],
            "what": f"{each['verdict']} the answer of {each['annotator']}",
            "text": each["text"],
            "comment": each["comment"],
        }
        for each in task["reviews"]
    ]
    return sorted(lines, key=lambda line: float(line["time"]))
