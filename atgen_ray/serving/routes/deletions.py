"""/api/v1/deletions: delete examples, labels, people, uploads and runs, with a certificate."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from atgen_ray.runs.deletion import Kind, Target, delete
from atgen_ray.serving.auditing import note
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.body import Body
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.deletions import find_deletion, list_deletions
from atgen_ray.store.journal import Journal

Name = Annotated[str, Field(min_length=1, max_length=300)]
Id = Annotated[str, Path(pattern="^d[0-9a-f]{12}$", description="Id of the deletion")]


class DeletionBody(Body):
    """What is to be deleted."""

    kind: Kind
    names: Annotated[list[Name], Field(min_length=1, max_length=1000)] = Field(
        description="Ids of examples; or the name of a person, an upload or a run"
    )
    run: Name | None = Field(None, description="Only in this run; null: in all runs")
    annotator: Name | None = Field(None, description="Whose label goes, for the kind label")
    dry_run: bool = Field(True, description="Only tell what would happen")


class CertificateBody(BaseModel):
    """What was removed where, and what cannot be; never the text itself."""

    id: str
    kind: str
    target: dict[str, Any]
    by: str
    begun: float = Field(description="Seconds since 1970")
    finished: float | None = Field(description="Null: it was cut short, or is a rehearsal")
    dry_run: bool
    runs: list[str]
    removed: list[dict[str, Any]]
    remains: list[dict[str, Any]]


def deletion_routes(journal: Journal, storage: str) -> APIRouter:
    """Return the routes of deletions, for admins."""
    router = APIRouter(prefix="/api/v1/deletions", tags=["runs"], dependencies=[allow("admin")])

    @router.post("")
    def delete_target(request: Request, body: DeletionBody) -> CertificateBody:
        """Delete something everywhere it lies, or with `dry_run` tell what that would remove. The
        same request again finishes a deletion that was cut short.
        """
        target = Target(body.kind, tuple(body.names), body.run, body.annotator)
        done = delete(journal, storage, target, request.state.caller.name, body.dry_run)
        note(request, run=body.run, kind=body.kind, target=done.id)
        return CertificateBody(**done.as_json())

    @router.get("")
    def list_certificates() -> list[CertificateBody]:
        """List the certificates of all deletions, the oldest first."""
        records = list_deletions(journal)
        return [CertificateBody(**record.certificate) for record in records if record.certificate]

    @router.get("/{id}")
    def show_certificate(id: Id) -> CertificateBody:
        """Return one certificate."""
        certificate = find_deletion(journal, id).certificate
        if not certificate:
            raise ApiError(404, f"deletion '{id}' has no certificate yet")
        return CertificateBody(**certificate)

    return router
