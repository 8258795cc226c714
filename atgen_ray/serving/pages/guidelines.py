"""/annotate/{name}/guidelines: the guidelines of a run with their versions; for admins also the
editor, the remarks of annotators, and answers of earlier versions.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from atgen_ray.annotation.guidelines import Guidelines, list_guidelines, read_first
from atgen_ray.annotation.human.lead.guideline_edits import (
    count_outdated,
    count_remarks,
    list_outdated,
    list_remarks,
)
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.serving.pages.display import show_text
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]
Person = Annotated[Caller, allow("admin", "annotator")]
EARLIER = 50  # answers of earlier versions on the page


def guideline_pages(journal: Journal) -> APIRouter:
    """Return the routes of the page, and of the part that the page for labelling shows."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}/guidelines")
    def page(
        request: Request,
        name: Name,
        caller: Person,
        search: Annotated[str, Query(max_length=400)] = "",
    ) -> Response:
        found = _list_all(journal, name)
        values = show_guidelines(journal, name, found)
        if caller.role == "admin":
            version = found[0].version
            values |= {
                "remarks": list_remarks(journal, name),
                "outdated": count_outdated(journal, name, version),
                "earlier": list_outdated(journal, name, version, search, EARLIER),
                "most": EARLIER,
            }
        return render(
            request, "guidelines.html.j2", name=name, versions=found, search=search, **values
        )

    @router.get("/annotate/{name}/guidelines/newest", dependencies=[allow("admin", "annotator")])
    def newest(request: Request, name: Name) -> Response:
        return render(
            request, "guidelines_text.html.j2", name=name, **show_guidelines(journal, name)
        )

    return router


def show_guidelines(
    journal: Journal, name: str, found: list[Guidelines] | None = None
) -> dict[str, Any]:
    """Return the newest version as `newest` and in its form as `guidelines`, the worked `examples`
    of the configuration, and how many remarks are `waiting` for the lead.
    """
    newest = (found or _list_all(journal, name))[0]
    config = open_task_store(journal, name).config
    return {
        "newest": newest,
        "guidelines": show_text(newest.text, "markdown"),
        "examples": [
            (show_text(shot.input, config.display), show_text(shot.output))
            for shot in config.examples
        ],
        "waiting": count_remarks(journal, name),
    }


def _list_all(journal: Journal, name: str) -> list[Guidelines]:
    """Return all versions, the newest first."""
    guidelines = open_task_store(journal, name).config.guidelines
    first = read_first(guidelines, journal.run(name).config)
    with journal.database.reading() as connection:
        return list_guidelines(connection, name, first)
