"""/annotate/NAME/labels: labels of other tools are brought in, and answers are taken out."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from atgen_ray.annotation.human.task_store import open_task_store
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.journal import Journal


def label_pages(journal: Journal) -> APIRouter:
    """Return the route of the page, for admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/annotate/{name}/labels", dependencies=[allow("admin")])
    def labels(request: Request, name: Name) -> Response:
        open_task_store(journal, name)
        return render(request, "labels.html.j2", name=name)

    return router
