"""/v1/fine_tuning/jobs: supervised fine-tuning of the service's model, as the OpenAI API has it."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request

from atgen_ray.serving.auditing import note
from atgen_ray.serving.schemas.files import After, list_body, page
from atgen_ray.serving.schemas.fine_tuning import JobBody, TuningBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.tuning import TuningDesk

Lead = Annotated[Caller, allow("admin", scope="runs")]
Id = Annotated[str, Path(max_length=200, description="Id of the job")]
Key = Annotated[str | None, Header(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page")]
PAGE = 20


def tuning_routes(desk: TuningDesk) -> APIRouter:
    """Return the routes, for admins and the scope `runs`; a caller who is no admin sees the jobs of
    the own name.
    """
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

    @router.post("")
    def create_tuning_job(
        request: Request, body: TuningBody, caller: Lead, idempotency_key: Key = None
    ) -> JobBody:
        """Train the service's model on a file; the job goes on without its caller. The same
        Idempotency-Key again gives the same job.
        """
        job = desk.create(body, idempotency_key, caller)
        note(request, target=job.id)
        return job

    @router.get("")
    def list_tuning_jobs(caller: Lead, after: After = None, limit: Limit = PAGE) -> dict[str, Any]:
        """List the caller's jobs, the newest first."""
        jobs, more = page(desk.list_jobs(caller), lambda job: job.id, after, limit)
        return list_body([desk.describe(job).model_dump() for job in jobs], more)

    @router.get("/{id}")
    def find_tuning_job(id: Id, caller: Lead) -> JobBody:
        """Show a job."""
        return desk.show(id, caller)

    @router.post("/{id}/cancel")
    def cancel_tuning_job(id: Id, caller: Lead, request: Request) -> JobBody:
        """End a job; what it has committed stays in its run."""
        note(request, target=id)
        return desk.halt(id, "cancelled", caller)

    @router.post("/{id}/pause")
    def pause_tuning_job(id: Id, caller: Lead, request: Request) -> JobBody:
        """Stop a job so that it can go on later."""
        note(request, target=id)
        return desk.halt(id, "paused", caller)

    @router.post("/{id}/resume")
    def resume_tuning_job(id: Id, caller: Lead, request: Request) -> JobBody:
        """Go on with a paused job."""
        note(request, target=id)
        return desk.resume(id, caller)

    @router.get("/{id}/events")
    def list_tuning_events(
        id: Id, caller: Lead, after: After = None, limit: Limit = PAGE
    ) -> dict[str, Any]:
        """List what happened in a job, the newest first."""
        events, more = page(desk.events(id, caller), _id_of, after, limit)
        return list_body(events, more)

    @router.get("/{id}/checkpoints")
    def list_tuning_checkpoints(
        id: Id, caller: Lead, after: After = None, limit: Limit = PAGE
    ) -> dict[str, Any]:
        """List the adapter that a job has trained."""
        found, more = page(desk.checkpoints(id, caller), _id_of, after, limit)
        return list_body(found, more)

    return router


def _id_of(entry: dict[str, Any]) -> str:
    return str(entry["id"])
