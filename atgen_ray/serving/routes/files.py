"""/v1/files: files for fine-tuning and batches, as the OpenAI API has them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from atgen_ray.serving.api_files import FileDesk
from atgen_ray.serving.auditing import note
from atgen_ray.serving.openapi import describe_files
from atgen_ray.serving.schemas.files import (
    After,
    DeletedFileBody,
    FileBody,
    Limit,
    list_body,
    page,
)
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.concurrency import ConcurrencyLimit
from atgen_ray.serving.security.roles import allow
from atgen_ray.store.api_files import ApiFile

Owner = Annotated[Caller, allow("admin", scope=("runs", "infer"))]
Id = Annotated[str, Path(max_length=200, description="Id of the file")]
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["fine-tune", "batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                }
            }
        },
    }
}
LINES = "application/x-ndjson"


def file_routes(desk: FileDesk, uploads: int) -> APIRouter:
    """Return the routes, for admins and the scopes `runs` and `infer`; a caller who is no admin
    sees the files of the own name.
    """
    router = APIRouter(prefix="/v1/files", tags=["files"])
    uploading = ConcurrencyLimit("uploads", uploads)

    @router.post("", openapi_extra=FORM)
    async def create_file(request: Request, caller: Owner) -> FileBody:
        """Keep a file of JSON lines; each line is checked first."""
        with uploading.take():
            file = await desk.receive(request, caller)
        note(request, target=file.id)
        return _show(file)

    @router.get("")
    def list_files(
        caller: Owner,
        purpose: Annotated[str | None, Query(max_length=40)] = None,
        limit: Limit = 10_000,
        after: After = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """List the caller's files, the newest first."""
        files = desk.list(caller, purpose)
        files = files if order == "desc" else files[::-1]
        shown, more = page(files, lambda file: file.id, after, limit)
        return list_body([_show(file).model_dump() for file in shown], more)

    @router.get("/{id}")
    def find_file(id: Id, caller: Owner) -> FileBody:
        """Show a file."""
        return _show(desk.find(id, caller))

    @router.get("/{id}/content", response_class=Response, responses=describe_files(LINES))
    async def read_file(id: Id, caller: Owner) -> Any:
        """Download a file."""
        parts = await run_in_threadpool(desk.read, id, caller)
        return StreamingResponse(parts, media_type=LINES)

    @router.delete("/{id}")
    def delete_file(id: Id, caller: Owner, request: Request) -> DeletedFileBody:
        """Delete a file. Runs that read it keep their rows, which the certificate names."""
        note(request, target=id)
        return DeletedFileBody(id=desk.remove(id, caller).id)

    return router


def _show(file: ApiFile) -> FileBody:
    return FileBody(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created),
        expires_at=None if file.expires is None else int(file.expires),
        filename=file.filename,
        purpose=file.purpose,
    )
