"""Files that callers upload to the OpenAI-compatible API, checked before they are kept."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from atgen_ray.config import LimitsConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.runs.deletion import Target, delete
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.label_files import RESULTS, LabelFiles
from atgen_ray.serving.schemas.files import ExpiresAfter
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.tuning_rows import read_rows
from atgen_ray.serving.uploads import UploadQuota
from atgen_ray.store.api_files import ApiFile, ApiFiles
from atgen_ray.store.journal import Journal

FINE_TUNE = "fine-tune"
BATCH = "batch"
BATCH_OUTPUT = "batch_output"
FORM_BYTES = 64 * 1024  # of the form around the file
NAME = 200  # characters of a file's name
COPY = 1 << 20
# Fields of the form by which clients send `expires_after`.
EXPIRY = {f"expires_after[{key}]": key for key in ExpiresAfter.model_fields}
# Called with the lines of a file; returns how many there are, or raises UserError.
Check = Callable[[Iterator[bytes]], int]


def owner_of(caller: Caller) -> str | None:
    """Return whose files and jobs a caller may see; None: everybody's."""
    return None if caller.role == "admin" else caller.name


class FileDesk:
    """Takes, shows and deletes files."""

    def __init__(self, journal: Journal, storage: str, limits: LimitsConfig, batch: Check) -> None:
        """Prepare for one storage.

        Args:
            batch: checks the lines of a file of questions.
        """
        self._journal = journal
        self._storage = storage
        self._limits = limits
        self._quota = UploadQuota(journal, storage, limits)
        self._checks: dict[str, Check] = {
            FINE_TUNE: lambda lines: read_rows(lines).rows,
            BATCH: batch,
        }
        self.store = ApiFiles(journal, storage)
        self._labels = LabelFiles(journal, storage)

    async def receive(self, request: Request, caller: Caller) -> ApiFile:
        """Keep the file of a form with `file` and `purpose`.

        Raises:
            ApiError: 400, the form or a line of the file is wrong; 413, it is too large; 507, there
                is no room.
        """
        await run_in_threadpool(self._quota.check, caller.name, 1)  # before anything is read
        try:
            parser = MultiPartParser(
                request.headers, self._limited(request), max_files=1, max_fields=8
            )
            form = await parser.parse()
        except (MultiPartException, KeyError) as error:
            message = getattr(error, "message", "expected multipart/form-data")
            raise ApiError(400, f"the form cannot be read: {message}") from None
        try:
            unknown = [key for key in form if key not in ("file", "purpose", *EXPIRY)]
            if unknown:
                raise ApiError(
                    400,
                    f"{unknown[0][:80]!r} is not known here, expected file, purpose and "
                    f"expires_after",
                )
            seconds = _read_expiry(
                {key: form[name] for name, key in EXPIRY.items() if name in form}
            )
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "file is missing, expected a file of JSON lines")
            return await run_in_threadpool(self._keep, file, str(purpose or ""), seconds, caller)
        finally:
            await form.close()

    async def _limited(self, request: Request) -> AsyncGenerator[bytes, None]:
        left = self._limits.upload_bytes + FORM_BYTES
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                raise ApiError(413, f"the file has more than {self._limits.upload_bytes} bytes")
            yield chunk

    def _keep(self, file: UploadFile, purpose: str, seconds: int | None, caller: Caller) -> ApiFile:
        if purpose not in self._checks:
            raise ApiError(400, f"purpose is {purpose[:40]!r}{nearest(purpose, self._checks)}")
        with TemporaryDirectory(prefix="atgen-file-") as folder:
            path = Path(folder) / "upload.jsonl"
            size = 0
            with path.open("wb") as target:
                while chunk := file.file.read(COPY):
                    size += target.write(chunk)
            if size > self._limits.upload_bytes:
                raise ApiError(413, f"the file has more than {self._limits.upload_bytes} bytes")
            with path.open("rb") as lines:
                rows = self._checks[purpose](iter(lines))
            self._quota.check(caller.name, size)
            name = Path(file.filename or "file.jsonl").name[:NAME]
            return self.store.add(path, name, purpose, rows, caller.name, seconds)

    def find(self, id: str, caller: Caller, purpose: str | None = None) -> ApiFile:
        """Return a file that the caller may see.

        Raises:
            ApiError: 404, there is none; 400, it has another purpose.
        """
        file = self.store.find(id, owner_of(caller))
        job = self._labels.find_job(id, owner_of(caller)) if file is None else None
        if job is not None and caller.may_see(job.run):
            file = self._labels.describe(job)
        if file is None:
            raise ApiError(404, f"file {id[:80]!r} is unknown")
        if purpose is not None and file.purpose != purpose:
            raise ApiError(400, f"file '{id}' is for {file.purpose}, expected one for {purpose}")
        return file

    def list(self, caller: Caller, purpose: str | None) -> list[ApiFile]:
        """Return the caller's files, the newest first; labelled rows only where they are asked for
        by their purpose, since they are written anew.
        """
        if purpose == RESULTS:
            return self._labels.list(owner_of(caller), caller.may_see)
        return self.store.list(owner_of(caller), purpose)

    def read(self, id: str, caller: Caller) -> Iterator[bytes]:
        """Return the content of a file in parts; raises ApiError 404."""
        stack = contextlib.ExitStack()
        file = self.find(id, caller)
        job = self._labels.find_job(id, owner_of(caller))
        if job is not None:
            return self._labels.read(job, caller.name)
        try:
            lines = stack.enter_context(self.store.open(file))
        except FileNotFoundError:
            raise ApiError(404, f"the content of file '{id}' is gone") from None

        def parts() -> Iterator[bytes]:
            with stack:
                yield from lines

        return parts()

    def remove(self, id: str, caller: Caller) -> ApiFile:
        """Delete a file, with a certificate as for any upload.

        Raises:
            ApiError: 404, there is none; 400, it is of labelled rows, which are a run's.
        """
        file = self.find(id, caller)
        if (job := self._labels.find_job(id, owner_of(caller))) is not None:
            raise ApiError(
                400,
                f"file '{id}' shows the labels of run '{job.run}', expected another file: the "
                f"deletion of the run deletes them",
            )
        try:
            delete(self._journal, self._storage, Target("upload", (file.upload,)), caller.name)
        except UserError as error:
            raise ApiError(404, str(error)) from None
        return file


def _read_expiry(given: dict[str, Any]) -> int | None:
    """Return after how many seconds a file expires; raises ApiError 400."""
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate(given).seconds
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("expires_after", *first["loc"])))
        raise ApiError(400, f"{key}: {first['msg']}", param=key) from None
