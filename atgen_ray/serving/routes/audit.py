"""/api/v1/audit: who changed what, for admins."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from atgen_ray.serving.auditing import Auditor
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.audit import Filter

Time = Annotated[float | None, Query(ge=0, description="Seconds since 1970")]
Word = Annotated[str | None, Query(min_length=1, max_length=200)]


class AuditBody(BaseModel):
    """Entries of the audit log, and the head of its chain."""

    head: str = Field(
        description="NUMBER:DIGEST of the last entry; kept elsewhere, it shows later "
        "that nothing before it was removed or changed"
    )
    entries: list[dict[str, Any]] = Field(description="The oldest first")


def audit_routes(auditor: Auditor) -> APIRouter:
    """Return the route, for admins."""
    router = APIRouter(tags=["audit"], dependencies=[allow("admin")])

    @router.get("/api/v1/audit")
    def read_audit(
        since: Time = None,
        until: Time = None,
        who: Word = None,
        run: Word = None,
        what: Word = None,
        after: Annotated[int, Query(ge=0, le=2**53, description="Only later numbers")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> AuditBody:
        """Read the audit log: who changed what, by time, person or token, run, and a word of the
        action.
        """
        chosen = Filter(since, until, who, run, what)
        head = auditor.log.head()
        return AuditBody(head=str(head), entries=list(auditor.log.read(chosen, after, limit)))

    return router
