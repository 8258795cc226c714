"""/api/v1/runs/{name}/tasks/import, /labels and /answers: import existing labels, as JSON or as a
file, and export the answers of people.
"""

from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from atgen_ray.annotation.human.exchange.imported_labels import (
    ImportedLabel,
    describe_file,
    list_labels,
)
from atgen_ray.annotation.human.exchange.label_export import write_answers
from atgen_ray.annotation.human.exchange.label_files import read_rows
from atgen_ray.annotation.human.exchange.label_formats import MAPPED, read_label_rows
from atgen_ray.annotation.human.exchange.label_import import bring_labels
from atgen_ray.serving.openapi import describe_files
from atgen_ray.serving.routes.runs import Name
from atgen_ray.serving.schemas.tasks import ImportBody, ImportedBody, LabelFileBody
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.uploads import BINARY
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal

File = Annotated[
    str,
    Path(
        max_length=200,
        description="The file's name; .csv, .tsv, .json, .jsonl or .parquet says what it is",
    ),
]
Column = Annotated[str | None, Query(max_length=500)]
FileFormat = Literal["auto", "argilla", "label-studio", "prodigy", "csv", "jsonl"]
MEDIA = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "argilla": "application/json",
    "label-studio": "application/json",
}


def label_routes(journal: Journal, storage: str) -> APIRouter:
    """Return the routes of import and export, for admins."""
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
    async def import_file(
        request: Request,
        name: Name,
        file: File,
        format: FileFormat = "auto",
        input: Column = None,
        text: Column = None,
        annotator: Column = None,
        id: Column = None,
        seconds: Column = None,
        guess: bool = False,
        rehearse: bool = False,
    ) -> LabelFileBody:
        """Import a file of existing labels: an export of Argilla, Label Studio or Prodigy, or rows
        with the columns text, id or input, and annotator, or those that the query names.

        `rehearse` changes nothing and tells what would happen; `guess` guesses columns that no name
        tells.
        """
        # Reading the file and writing to the journal block, hence the thread.
        named = zip(MAPPED, (input, text, annotator, id, seconds), strict=True)
        mapping = {key: column for key, column in named if column}
        content = await request.body()
        found = await run_in_threadpool(
            _import, content, name, file, format, mapping, guess, rehearse
        )
        return LabelFileBody(**found)

    def _import(
        content: bytes,
        name: str,
        file: str,
        format: str,
        mapping: dict[str, str],
        guess: bool,
        rehearse: bool,
    ) -> dict[str, Any]:
        called = f"the file is {file[:80]!r}"
        with TemporaryDirectory(prefix="atgen-labels-") as folder:
            path = FilePath(folder) / f"labels{FilePath(file).suffix.lower()}"
            path.write_bytes(content)
            rows = read_rows(path, called)
        found = read_label_rows(rows, called, format, mapping, guess)
        done = bring_labels(journal, storage, name, list_labels(found), rehearse)
        return describe_file(found) | done

    @router.get(
        "/answers",
        response_class=Response,
        responses=describe_files(*dict.fromkeys(MEDIA.values())),
    )
    def export_answers(
        request: Request,
        name: Name,
        format: Literal["jsonl", "csv", "argilla", "label-studio"] = "jsonl",
    ) -> Response:
        """Download every answer of the run's people with times, agreement, decisions and the
        version of the guidelines; or as a file for Argilla or Label Studio.
        """
        with TemporaryDirectory(prefix="atgen-answers-") as folder:
            path = FilePath(folder) / "answers"
            count = write_answers(journal, name, format, path)
            note_export(journal, name, "answers", format, count, request.state.caller.name)
            content = path.read_bytes()
        ending = "json" if MEDIA[format] == "application/json" else format
        file = f"{name}-{format if ending == 'json' else 'answers'}.{ending}"
        disposition = {"Content-Disposition": f'attachment; filename="{file}"'}
        return Response(content, media_type=MEDIA[format], headers=disposition)

    return router
