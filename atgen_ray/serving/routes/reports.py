"""/api/v1/report: download the report on runs."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import StringConstraints

from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.roles import allow

Names = Annotated[
    list[Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN.pattern}$")]],
    Query(min_length=1, max_length=20, description="Names of the runs"),
]


def report_routes(control: RunManager) -> APIRouter:
    """Return the route of reports, for admins: they hold labels and references."""
    router = APIRouter(prefix="/api/v1", tags=["runs"])

    @router.get("/report", dependencies=[allow("admin")], response_class=HTMLResponse)
    def report(request: Request, run: Names) -> Response:
        """Download one self-contained page on a run, or on several compared."""
        names = list(dict.fromkeys(run))
        file = names[0] if len(names) == 1 else "runs-compared"
        disposition = {"Content-Disposition": f'attachment; filename="{file}.html"'}
        return HTMLResponse(control.report(names, request.state.caller.name), headers=disposition)

    return router
