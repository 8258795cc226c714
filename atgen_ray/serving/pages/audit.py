"""/audit: who changed what, for admins."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.pages.rendering import render
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.audit import Filter

SHOWN = 200
Word = Annotated[str, Query(max_length=200)]


def audit_pages(auditor: Auditor) -> APIRouter:
    """Return the route of the page."""
    router = APIRouter(include_in_schema=False)

    @router.get("/audit", dependencies=[allow("admin")])
    def show_audit(
        request: Request,
        who: Word = "",
        run: Word = "",
        what: Word = "",
        before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    ) -> Response:
        chosen = Filter(who=who or None, run=run or None, what=what or None)
        found = auditor.log.latest(chosen, SHOWN, before)
        older = ""
        if len(found) == SHOWN:
            query = {"who": who, "run": run, "what": what, "before": found[-1]["sequence"]}
            older = urlencode({key: value for key, value in query.items() if value})
        head = str(auditor.log.head())
        return render(
            request, "audit.html.j2", entries=found, chosen=chosen, older=older, head=head
        )

    return router
