"""The service with a model in this process, without Ray: everything real but Serve, whose handles
are stood in for by calls in the same event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.application import create_api
from atgen_ray.serving.replicas.base import TransformersReplica
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import open_journal
from helpers.ports import free_port
from helpers.projects import Project
from helpers.services import Service


class _Stream:
    """A stream of a handle's answers."""

    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Any:
        return await anext(self._answers)

    def cancel(self) -> None:
        """Serve's stops the replica; here the stream is closed by its reader."""


class _Method:
    def __init__(self, find: Callable[[], Awaitable[Any]], name: str, stream: bool) -> None:
        self._find = find
        self._name = name
        self._stream = stream

    def remote(self, *given: Any) -> Any:
        return _Stream(self._answers(*given)) if self._stream else self._answer(*given)

    async def _answer(self, *given: Any) -> Any:
        return await getattr(await self._find(), self._name)(*given)

    async def _answers(self, *given: Any) -> AsyncIterator[Any]:
        async for item in getattr(await self._find(), self._name)(*given):
            yield item


class LocalHandle:
    """What the API sees of a deployment; the replica is made at the first call."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service
        self._made: asyncio.Task[Any] | None = None
        self._stream = False

    def options(self, stream: bool = False, **_: Any) -> Any:
        """See Serve's handles."""
        shared = LocalHandle(self._service)
        shared._find = self._find  # type: ignore[method-assign]
        shared._stream = stream
        return shared

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._find, name, self._stream)

    async def _find(self) -> Any:
        if self._made is None:
            self._made = asyncio.create_task(self._make())
        return await self._made

    async def _make(self) -> Any:
        replica = TransformersReplica.__new__(TransformersReplica)
        await TransformersReplica.__init__(replica, self._service)
        return replica


@contextmanager
def serve_replica(storage: Path, model: str, **settings: Any) -> Iterator[Service]:
    """A service of the base model `model`, called `tiny`, in `storage`."""
    service = ServiceConfig.model_validate(
        {
            "storage": str(storage),
            "model": {
                "id": model,
                "dtype": "float32",
                "max_prompt_tokens": 400,
                "max_new_tokens": 16,
            },
            "model_name": "tiny",
            "engine": {"backend": "transformers", "threads_per_worker": 1},
        }
        | settings
    )
    tokens = Tokens(open_journal(service.storage, service.database_url).database)
    app = create_api(service, LocalHandle(service), LocalHandle(service))
    working = set[asyncio.Task[None]]()

    async def start_work() -> None:  # as `Api` does
        working.add(asyncio.create_task(app.state.batches.watch()))

    app.router.add_event_handler("startup", start_work)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.02)
    try:
        yield Service(
            f"http://127.0.0.1:{port}",
            tokens.create("admin", "tests"),
            tokens.create("annotator", "tests"),
            "",
            Project(storage),
            storage,
        )
    finally:
        server.should_exit = True
        thread.join(30)
