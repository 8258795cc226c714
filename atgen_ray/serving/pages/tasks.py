"""Page on which people label, and page on which an admin settles their disagreements."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.draft_experiment import measure_drafts
from atgen_ray.annotation.human.lead.adjudication import count_disputes, list_disputes
from atgen_ray.annotation.human.lead.dispute_levels import measure_levels
from atgen_ray.annotation.human.progress import measure_team
from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.annotation.human.waiting import list_waiting
from atgen_ray.config.selection import name_strategy
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.selection import explain_strategy
from atgen_ray.serving.pages.guidelines import show_guidelines
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal

A_PAGE = 20  # disputes on a page
Name = Annotated[str, Path(pattern=f"^{NAME_PATTERN.pattern}$")]


def task_pages(journal: Journal) -> APIRouter:
    """Return the routes of the pages: labelling for annotators and admins, disputes for admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}", dependencies=[allow("admin", "annotator")])
    def annotate(request: Request, name: Name) -> Response:
        config = journal.run(name).config
        # Of the first round and of later ones: the page shows the one that its task names.
        names = dict.fromkeys(name_strategy(config, round) for round in (1, 2))
        return render(
            request,
            "annotate.html.j2",
            name=name,
            quiz=open_task_store(journal, name).config.gold.quiz,
            explanations={each: explain_strategy(each) for each in names if each},
            **show_guidelines(journal, name),
        )

    @router.get("/parts/waiting", dependencies=[allow("admin", "annotator")])
    def waiting(request: Request) -> Response:
        caller: Caller = request.state.caller
        found = list_waiting(journal, caller.name, caller.groups)
        found = [run for run in found if caller.may_see(run.name)]
        return render(request, "waiting.html.j2", waiting=found)

    @router.get("/annotate/{name}/disputes", dependencies=[allow("admin")])
    def disputes(
        request: Request, name: Name, page: Annotated[int, Query(ge=1, le=100_000)] = 1
    ) -> Response:
        found: dict[str, Any] = {
            "disputes": list_disputes(journal, name, A_PAGE, (page - 1) * A_PAGE),
            "count": count_disputes(journal, name),
            "page": page,
            "a_page": A_PAGE,
            "levels": measure_levels(journal, name),
            "team": measure_team(journal, name),
            "drafts": measure_drafts(journal, name),
            "display": open_task_store(journal, name).config.display,
        }
        return render(request, "disputes.html.j2", name=name, **found)

    return router
