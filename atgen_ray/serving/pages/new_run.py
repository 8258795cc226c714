"""Page /new, on which a run is configured and started."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from atgen_ray.config.loading import list_presets
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.pages.run_form import COLUMNS, FILES, build_form
from atgen_ray.serving.security.roles import allow


def new_run_pages() -> APIRouter:
    """Return the route of the page, for admins."""
    router = APIRouter(include_in_schema=False)

    @router.get("/new", dependencies=[allow("admin")])
    def new_run(
        request: Request, preset: Annotated[str | None, Query(max_length=100)] = None
    ) -> Response:
        groups, more = build_form(preset or None)
        known = list_presets()
        return render(
            request,
            "new.html.j2",
            groups=groups,
            more=more,
            preset=preset,
            presets=known,
            files=FILES,
            columns=COLUMNS,
        )

    return router
