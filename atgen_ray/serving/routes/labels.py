"""/api/v1/runs/{name}/tasks/import and /api/v1/runs/{name}/labels: import existing labels, as JSON
or as a file.
"""

from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool

from atgen_ray.annotation.human.label_import import ImportedLabel, bring_labels, read_labels
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.tasks import ImportBody, ImportedBody
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.uploads import BINARY
from atgen_ray.store.journal import Journal

File = Annotated[
    str,
    Path(max_length=200, description="The file's name; .csv, .jsonl or .parquet says what it is"),
]


def label_routes(journal: Journal, storage: str) -> APIRouter:
    """Return the routes of the import, for admins."""
    router = APIRouter(prefix="/api/v1/runs/{name}", tags=["tasks"], dependencies=[allow("admin")])

    @router.post("/tasks/import")
    def import_labels(name: Name, body: ImportBody) -> ImportedBody:
        """Import existing labels for examples of the pool."""
        labels = [
            ImportedLabel(label.text, label.id, label.input, label.annotator)
            for label in body.labels
        ]
        return ImportedBody(**bring_labels(journal, storage, name, labels))

    @router.put("/labels/{file}", openapi_extra={"requestBody": BINARY})
    async def import_file(request: Request, name: Name, file: File) -> ImportedBody:
        """Import a file of existing labels with the columns text, id or input, and annotator, which
        an export has.
        """
        # Reading the file and writing to the journal block, hence the thread.
        content = await request.body()
        return await run_in_threadpool(_import, content, name, file)

    def _import(content: bytes, name: str, file: str) -> ImportedBody:
        with TemporaryDirectory(prefix="atgen-labels-") as folder:
            path = FilePath(folder) / f"labels{FilePath(file).suffix.lower()}"
            path.write_bytes(content)
            labels = read_labels(path, f"the file is {file[:80]!r}")
        return ImportedBody(**bring_labels(journal, storage, name, labels))

    return router
