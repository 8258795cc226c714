"""/v1/batches: many questions to the service's own models, as the OpenAI API has them."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request

from atgen_ray.serving.auditing import note
from atgen_ray.serving.batches import BatchDesk
from atgen_ray.serving.schemas.batches import BatchBody, BatchViewBody, CountsBody
from atgen_ray.serving.schemas.files import After, list_body, page
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.batches import BatchRecord

Asker = Annotated[Caller, allow("admin", scope="infer")]
Id = Annotated[str, Path(max_length=200, description="Id of the batch")]
Key = Annotated[str | None, Header(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page")]
PAGE = 20


def batch_routes(desk: BatchDesk) -> APIRouter:
    """Return the routes, for admins and the scope `infer`; a caller who is no admin sees the
    batches of the own name.
    """
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    @router.post("")
    def create_batch(
        request: Request, body: BatchBody, caller: Asker, idempotency_key: Key = None
    ) -> BatchViewBody:
        """Answer the questions of a file when there is room. The same Idempotency-Key again gives
        the same batch.
        """
        batch = desk.create(body, idempotency_key, caller)
        note(request, target=batch.id)
        return _show(batch)

    @router.get("")
    def list_batches(caller: Asker, after: After = None, limit: Limit = PAGE) -> dict[str, Any]:
        """List the caller's batches, the newest first."""
        shown, more = page(desk.list(caller), lambda batch: batch.id, after, limit)
        return list_body([_show(batch).model_dump() for batch in shown], more)

    @router.get("/{id}")
    def find_batch(id: Id, caller: Asker) -> BatchViewBody:
        """Show a batch."""
        return _show(desk.find(id, caller))

    @router.post("/{id}/cancel")
    def cancel_batch(id: Id, caller: Asker, request: Request) -> BatchViewBody:
        """End a batch; the answers so far are kept."""
        note(request, target=id)
        return _show(desk.cancel(id, caller))

    return router


def _show(batch: BatchRecord) -> BatchViewBody:
    ended = int(batch.ended) if batch.ended is not None else None
    mistake = {"code": "failed", "message": batch.message, "param": None, "line": None}
    return BatchViewBody(
        id=batch.id,
        endpoint=batch.asked["endpoint"],
        errors={"object": "list", "data": [mistake]} if batch.message else None,
        input_file_id=batch.asked["input_file_id"],
        completion_window=batch.asked["completion_window"],
        status=batch.status,
        output_file_id=batch.output,
        error_file_id=batch.errors,
        created_at=int(batch.created),
        in_progress_at=int(batch.created),
        completed_at=ended if batch.status == "completed" else None,
        cancelled_at=ended if batch.status == "cancelled" else None,
        failed_at=ended if batch.status == "failed" else None,
        request_counts=CountsBody(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        metadata=batch.asked.get("metadata"),
    )
