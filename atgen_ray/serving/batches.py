"""Batches: many questions to the service's own models, answered when nobody waits for them.

A batch is entered whole, after every line was checked. A worker in each replica of the API takes
what nobody works on, answers it part by part, and keeps each part before it goes on. Kill anything,
and another worker goes on behind the last part; a line of the part under way may be asked again.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from fastapi.concurrency import run_in_threadpool

from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.answers import Answers
from atgen_ray.serving.api_files import BATCH, BATCH_OUTPUT, FileDesk, owner_of
from atgen_ray.serving.batch_rows import Question, read_questions
from atgen_ray.serving.errors import ApiError, error_body, explain
from atgen_ray.serving.schemas.batches import BatchBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.api_files import ApiFile
from atgen_ray.store.batches import HOLD_SECONDS, Batches, BatchParts, BatchRecord
from atgen_ray.store.journal import Journal

PART = 16  # questions that are asked at once, and kept together
POLL_SECONDS = 2.0
BUSY_SECONDS = 1.0  # before a full queue is tried again
BUSY = (429, 503)

logger = logging.getLogger(__name__)


class BatchDesk:
    """Takes, shows and cancels batches."""

    def __init__(self, journal: Journal, files: FileDesk, answers: Answers) -> None:
        self._batches = Batches(journal)
        self._files = files
        self._answers = answers

    def create(self, body: BatchBody, key: str | None, caller: Caller) -> BatchRecord:
        """Enter a batch.

        Raises:
            ApiError: 400, the file has a question that cannot be asked; 404, the file or a model is
                unknown; 409, the key is that of another request; 429, a quota is used up.
        """
        file = self._files.find(body.input_file_id, caller, BATCH)
        self._answers.check_quota(caller)
        try:
            with self._files.store.open(file) as lines:
                for number, question in enumerate(read_questions(lines), 1):
                    self._check(question, number, body, caller)
        except FileNotFoundError:
            raise ApiError(404, f"the content of file '{file.id}' is gone") from None
        asked = body.model_dump(mode="json", exclude_none=True)
        batch = self._batches.enter(caller.name, caller.id, key, asked, file.rows)
        if batch.asked != asked:
            raise ApiError(409, "this Idempotency-Key was sent with another request")
        return batch

    def _check(self, question: Question, number: int, body: BatchBody, caller: Caller) -> None:
        """Check what is known before anything is asked."""
        if question.url != body.endpoint:
            raise ApiError(
                400, f"question {number} is for {question.url}, expected {body.endpoint}"
            )
        try:
            self._answers.check(question.parse(), caller)
        except UserError as error:
            raise ApiError(400, f"question {number}: {error}") from None
        except ApiError as error:
            raise ApiError(error.status, f"question {number}: {error}") from None

    def find(self, id: str, caller: Caller) -> BatchRecord:
        """Return a batch that the caller may see; raises ApiError 404."""
        batch = self._batches.find(id, owner_of(caller))
        if batch is None:
            raise ApiError(404, f"batch {id[:80]!r} is unknown")
        return batch

    def list(self, caller: Caller) -> list[BatchRecord]:
        """Return the caller's batches, the newest first."""
        return self._batches.list(owner_of(caller))

    def cancel(self, id: str, caller: Caller) -> BatchRecord:
        """Ask that a batch end; raises ApiError 404, or 400 for one that is over."""
        batch = self.find(id, caller)
        if batch.ended is not None:
            raise ApiError(400, f"batch '{id}' is {batch.status}, expected one that goes on")
        self._batches.cancel(id)
        return self.find(id, caller)


class BatchWorker:
    """Answers batches, one after another, in the event loop of the API."""

    def __init__(self, journal: Journal, storage: str, files: FileDesk, answers: Answers) -> None:
        self._batches = Batches(journal)
        self._tokens = Tokens(journal.database)
        self._storage = storage
        self._files = files
        self._answers = answers
        self._name = uuid4().hex

    async def watch(self) -> None:
        """Answer what comes, until the task is cancelled."""
        while True:
            try:
                worked = await self.work()
            except Exception:  # the next look finds the batch again
                logger.exception("a batch was left")
                worked = False
            if not worked:
                await asyncio.sleep(POLL_SECONDS)

    async def work(self) -> bool:
        """Answer a batch that nobody works on; return whether there was one."""
        batch = await run_in_threadpool(self._batches.take, self._name)
        if batch is None:
            return False
        try:
            await self._answer(batch)
        except (FileNotFoundError, UserError) as error:  # it was changed or removed by hand
            await self._fail(batch, f"its file cannot be read: {error}")
        except BaseException:  # a cancellation too: another worker goes on at once
            self._batches.let_go(batch.id, self._name)
            raise
        return True

    async def _answer(self, batch: BatchRecord) -> None:
        named = batch.asked["input_file_id"]
        file = await run_in_threadpool(self._files.store.find, named, None, True)
        if file is None:
            await self._fail(batch, "its file was deleted")
            return
        parts = BatchParts(self._storage, batch.id)
        done: list[int] = [0, 0]
        number = 0
        questions = await run_in_threadpool(self._open, file)
        while part := await run_in_threadpool(lambda: list(islice(questions, PART))):
            caller = await run_in_threadpool(self._tokens.find_caller, batch.token)
            if caller is None:
                await self._fail(batch, "the token that asked is no longer valid")
                return
            status = await run_in_threadpool(
                self._batches.advance, batch.id, self._name, done[0], done[1]
            )
            if status is None:  # another worker has taken it
                return
            if status == "cancelling":
                break
            answers = await run_in_threadpool(parts.read, number)
            if answers is None:
                answers = await self._ask_all(batch, part, caller, done)
                await run_in_threadpool(parts.write, number, answers)
            for answer in answers:
                done[not _is_good(answer)] += 1
            number += 1
        await run_in_threadpool(self._finish, batch, parts, number, done)

    async def _ask_all(
        self, batch: BatchRecord, part: Sequence[Question], caller: Caller, done: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Return the answers to a part; the hold is renewed meanwhile, however long that takes."""
        asking = asyncio.gather(*(self._ask(question, caller) for question in part))
        try:
            while not (await asyncio.wait([asking], timeout=HOLD_SECONDS / 3))[0]:
                await run_in_threadpool(
                    self._batches.advance, batch.id, self._name, done[0], done[1]
                )
        finally:
            asking.cancel()  # has no effect on one that is done
        return list(asking.result())

    def _open(self, file: ApiFile) -> Iterator[Question]:
        """Return the questions of a file, whose lines were checked when it was uploaded."""

        def read() -> Iterator[Question]:
            with self._files.store.open(file) as lines:
                yield from read_questions(lines)

        return read()

    async def _ask(self, question: Question, caller: Caller) -> dict[str, Any]:
        """Return the line of one answer."""
        while True:
            try:
                answer = await self._answers.whole(question.parse(), caller)
            except ApiError as error:
                told = error_body(error.status, error.message, error.param, error.code)
                return _line(question, error.status, told)
            except Exception as error:  # one wrong question ends no batch
                meaning = explain(error)
                if meaning is not None and meaning[0] in BUSY:
                    await asyncio.sleep(BUSY_SECONDS)
                    continue
                if meaning is None:
                    logger.error("a question of a batch failed", exc_info=error)
                status, message = meaning or (500, "the service's log tells why")
                return _line(question, status, error_body(status, message))
            return _line(question, 200, answer)

    async def _fail(self, batch: BatchRecord, message: str) -> None:
        await run_in_threadpool(BatchParts(self._storage, batch.id).remove)
        await run_in_threadpool(
            lambda: self._batches.end(batch.id, self._name, "failed", message=message)
        )

    def _finish(
        self, batch: BatchRecord, parts: BatchParts, count: int, done: Sequence[int]
    ) -> None:
        """Write the files of answers and of errors, and end the batch."""
        status = self._batches.advance(batch.id, self._name, done[0], done[1])
        if status is None:
            return
        kept: dict[str, str] = {}
        seconds = (batch.asked.get("output_expires_after") or {}).get("seconds")
        with TemporaryDirectory(prefix="atgen-batch-") as folder:
            for name, good in (("output", True), ("errors", False)):
                path = Path(folder, name)
                rows = 0
                with path.open("w") as file:
                    for number in range(count):
                        for answer in parts.read(number) or []:
                            if _is_good(answer) is good:
                                rows += 1
                                file.write(f"{encode_json(answer)}\n")
                if rows:
                    title = f"{batch.id}_{name}.jsonl"
                    given = (path, title, BATCH_OUTPUT, rows, batch.by, seconds)
                    kept[name] = self._files.store.add(*given).id
        ended = "cancelled" if status == "cancelling" else "completed"
        counts = {"completed": done[0], "failed": done[1]}
        self._batches.end(batch.id, self._name, ended, **kept, **counts)
        parts.remove()


def _is_good(answer: dict[str, Any]) -> bool:
    return bool(answer["response"]["status_code"] == 200)


def _line(question: Question, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": uuid4().hex, "body": body}
    return {
        "id": f"batch_req_{uuid4().hex}",
        "custom_id": question.custom_id,
        "response": response,
        "error": None if status == 200 else body["error"],
    }
