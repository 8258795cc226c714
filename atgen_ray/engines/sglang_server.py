"""One SGLang server, which this process starts, and asks by SGLang's native HTTP API.

Invariants:
- The server ends with the process that started it, however that ends.
- It listens on this machine alone, and answers nobody without its API key.
- Log-probabilities are in nats, before any temperature (`SGLANG_RETURN_ORIGINAL_LOGPROB`).
- Nothing is sent that would end it: an empty prompt, or a token outside the vocabulary.
- Every answer names the weights that gave it; an answer of other weights is an error.
- A server that ends or hangs is started again, `MAX_RESTARTS` times; requests are then sent again.

Example:
    server = SGLangServer(settings)
    rows = await server.generate(requests, BASE)
"""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import aiohttp

from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.engines.base import TokenRequest, TokenStep
from atgen_ray.engines.output_rows import ENTROPY_ALTERNATIVES
from atgen_ray.engines.sglang_answers import SGLangError, read_answer, read_refusal
from atgen_ray.engines.sglang_process import ServerProcess, launch
from atgen_ray.engines.sglang_sampling import name_sampling
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.sglang_weights import Weights
from atgen_ray.models.loading import count_vocabulary, load_tuned
from atgen_ray.ray_runtime.workers import MAX_RESTARTS

START_SECONDS = 600.0  # how long a server may take to load its model
ANSWER_SECONDS = 600.0  # how long it may take for a batch, and further for each of its tokens:
TOKEN_SECONDS = 0.5
POLL_SECONDS = 0.25
STREAM_END = b"[DONE]"


class _GoneError(Exception):
    """The server ended or hung while it was asked."""

    def __init__(self, child: ServerProcess, reason: str) -> None:
        super().__init__(reason)
        self.child = child


class SGLangServer:
    """A server, started at the first request. It belongs to one event loop."""

    def __init__(
        self,
        settings: ServerSettings,
        stop_ids: Sequence[int],
        command: Sequence[str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Prepare a server.

        Args:
            stop_ids: tokens that end an answer.
            command: started in the launcher's place; it must read its arguments as that does.
            answer_seconds: a batch that takes longer than this and `TOKEN_SECONDS` for each of its
                tokens counts as a server that hangs.
        """
        self._settings = settings
        self._stop_ids = list(stop_ids)
        self._command = command
        self._answer_seconds = answer_seconds
        self._vocabulary = count_vocabulary(settings.model)
        self._child: ServerProcess | None = None
        self._deaths = 0
        self._session: aiohttp.ClientSession | None = None
        self._changing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Return the process and process group of the server; None while there is none."""
        return self._child.process.pid if self._child else None

    async def start(self) -> None:
        """Return once the server answers; start it if need be.

        Raises:
            SGLangError: it ended before it answered, or took too long; with the end of its log.
        """
        async with self._changing:
            await self._start()

    async def generate(
        self, requests: Sequence[TokenRequest], weights: Weights
    ) -> list[list[TokenStep]]:
        """Return the steps of each request, all answered with `weights`.

        Raises:
            RuntimeError: a request would end the server, or the server refuses or aborts it.
            SGLangError: the server ended again and again, or answered with other weights.
        """
        body = self._build_body(requests, weights)
        seconds = self._count_seconds(requests)
        while True:
            try:
                child = await self._hold(weights)
                answers = await self._ask(child, "/generate", body, seconds)
                break
            except _GoneError as gone:
                await self._record_death(gone)
        return [
            read_answer(answer, request.top_logprobs, weights)
            for answer, request in zip(answers, requests, strict=True)
        ]

    async def stream(
        self, request: TokenRequest, weights: Weights
    ) -> AsyncGenerator[TokenStep, None]:
        """Yield the steps of one request as they come. Closing it has the server drop the request.

        Raises:
            RuntimeError: as `generate`, and for a server that ends in the middle of the answer.
            SGLangError: as `generate`.
        """
        body = self._build_body([request], weights) | {"stream": True}
        while True:
            begun = False
            try:
                child = await self._hold(weights)
                async with aclosing(
                    self._stream(child, body, self._count_seconds([request]))
                ) as answers:
                    async for answer in answers:
                        for step in read_answer(answer, request.top_logprobs, weights):
                            begun = True
                            yield step
                return
            except _GoneError as gone:
                await self._record_death(gone)
                if begun:
                    raise RuntimeError(f"SGLang's server ended in mid-answer: {gone}") from None

    async def probe(self) -> None:
        """Return once the server has answered a request of its own; start it if it has ended.

        Raises:
            SGLangError: it cannot be started, or ended too often.
        """
        child = self._child
        if child is None or not child.ready or child.process.poll() is not None:
            await self.start()
            return
        try:
            await self._ask(child, "/health_generate", None, self._answer_seconds)
        except _GoneError as gone:
            await self._record_death(gone)

    async def sleep(self) -> None:
        """Have the server free its GPU's memory; on a CPU nothing happens."""
        await self._call("/release_memory_occupation")

    async def wake(self) -> None:
        """Have the server take its memory again."""
        await self._call("/resume_memory_occupation")

    async def close(self) -> None:
        """End the server and wait for its end."""
        async with self._changing:
            await self._end()
            if self._session is not None:
                await self._session.close()
                self._session = None

    def _check(self, token_ids: Sequence[int]) -> None:
        """Raise RuntimeError for a prompt that would end the whole server."""
        if not token_ids:
            raise RuntimeError("the prompt is empty, expected at least one token")
        outside = [token for token in token_ids if not 0 <= token < self._vocabulary]
        if outside:
            raise RuntimeError(
                f"the prompt has the token id {outside[0]}, expected ids from 0 to "
                f"{self._vocabulary - 1}"
            )

    def _build_body(self, requests: Sequence[TokenRequest], weights: Weights) -> dict[str, Any]:
        for request in requests:
            self._check(request.token_ids)
        top = max(ENTROPY_ALTERNATIVES, *(request.top_logprobs for request in requests))
        body = {
            "input_ids": [list(request.token_ids) for request in requests],
            "sampling_params": [name_sampling(each, self._stop_ids) for each in requests],
            "return_logprob": True,
            "top_logprobs_num": top,
        }
        if weights.adapter is not None:  # without room for adapters SGLang refuses even null
            body["lora_path"] = [weights.adapter] * len(requests)
        return body

    def _count_seconds(self, requests: Sequence[TokenRequest]) -> float:
        """Return after how many seconds a server hangs that has not answered."""
        return self._answer_seconds + TOKEN_SECONDS * sum(each.max_new_tokens for each in requests)

    async def _call(self, path: str) -> None:
        async with self._changing:
            child = await self._start()
        await self._ask(child, path, {}, self._answer_seconds)

    async def _start(self) -> ServerProcess:
        """Return the server that runs, once it answers. Called with the lock."""
        child = self._child
        if child is not None and child.process.poll() is not None:
            await self._clear_away(_GoneError(child, "it ended between two requests"))
            child = None
        if child is None:
            child = self._child = launch(self._settings, self._command)
        if not child.ready:
            await self._wait_until_ready(child)
        return child

    async def _wait_until_ready(self, child: ServerProcess) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = child.process.poll()
            if status is not None or time.monotonic() > deadline:
                shown = child.show_log()
                await self._end()
                what = (
                    f"did not answer within {START_SECONDS:g} seconds"
                    if status is None
                    else f"ended with status {status} before it answered"
                )
                raise SGLangError(f"SGLang's server {what}{shown}")
            try:
                await self._ask(child, "/health", None, 30.0)
                # Health needs no key: only the server that was started here knows it.
                await self._ask(child, "/model_info", None, 30.0)
                child.ready = True
                return
            except (_GoneError, RuntimeError):
                await asyncio.sleep(POLL_SECONDS)

    async def _hold(self, weights: Weights) -> ServerProcess:
        """Return the server that runs, once it holds `weights`."""
        async with self._changing:
            child = await self._start()
            if child.version != weights.loaded:
                with self._whole_model(weights) as folder:
                    body = {"model_path": folder, "weight_version": weights.loaded}
                    await self._ask(child, "/update_weights_from_disk", body, START_SECONDS)
                child.version = weights.loaded
            if weights.adapter is not None and weights.adapter not in child.adapters:
                # SGLang forgets the adapter that is unused for longest, and reads it again from
                # this folder when it is asked for.
                body = {"lora_name": weights.adapter, "lora_path": str(weights.folder)}
                await self._ask(child, "/load_lora_adapter", body, START_SECONDS)
                child.adapters.add(weights.adapter)
            return child

    @contextmanager
    def _whole_model(self, weights: Weights) -> Iterator[str]:
        """Yield the folder of the whole model that `weights` stand for."""
        if weights.how == "merged":
            with tempfile.TemporaryDirectory(prefix="atgen-merged-") as folder:
                load_tuned(self._settings.model, weights.folder).save_pretrained(folder)
                yield folder
        elif weights.how == "whole":
            yield str(weights.folder)
        else:
            yield resolve_checkpoint(self._settings.model.id)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # The buffer must hold a line: an event with the alternatives of many tokens.
            self._session = aiohttp.ClientSession(read_bufsize=2**20)
        return self._session

    async def _ask(
        self, child: ServerProcess, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Any:
        """Return the server's JSON answer to a POST of `body`, or to a GET without one.

        Raises:
            RuntimeError: the server refuses; the message is its own.
            _GoneError: it ended, or took longer than `seconds`.
        """
        try:
            async with self._open_session().request(
                "GET" if body is None else "POST",
                child.url + path,
                json=body,
                headers={"authorization": f"Bearer {child.key}"},
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                text = await response.text()
                status = response.status
        except TimeoutError:
            raise _GoneError(child, f"no answer to {path} in {seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            raise _GoneError(child, f"{path}: {error}") from None
        if status != 200:
            raise RuntimeError(f"SGLang: {read_refusal(text) or f'status {status}'}")
        return json.loads(text) if text else None

    async def _stream(
        self, child: ServerProcess, body: Mapping[str, Any], seconds: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of a streamed answer of `/generate`, each with the tokens since the one
        before. Raises as `_ask`.
        """
        try:
            async with self._open_session().post(
                child.url + "/generate",
                json=body,
                headers={"authorization": f"Bearer {child.key}"},
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                if response.status != 200:
                    raise RuntimeError(f"SGLang: {read_refusal(await response.text())}")
                async for line in response.content:
                    event = line.removeprefix(b"data: ").strip()
                    if event and event != STREAM_END:
                        answer = json.loads(event)
                        if "error" in answer:
                            raise RuntimeError(f"SGLang: {read_refusal(event.decode())}")
                        yield answer
        except TimeoutError:
            raise _GoneError(child, f"no whole answer in {seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            raise _GoneError(child, f"/generate: {error}") from None

    async def _record_death(self, gone: _GoneError) -> None:
        """Count the death of a server, once, and clear it away.

        Raises:
            SGLangError: it was one too many.
        """
        async with self._changing:
            await self._clear_away(gone)

    async def _clear_away(self, gone: _GoneError) -> None:
        """See `_record_death`. Called with the lock."""
        if self._child is not gone.child:  # another request has met with it too
            return
        shown = gone.child.show_log()
        await self._end()
        self._deaths += 1
        if self._deaths > MAX_RESTARTS:
            raise SGLangError(
                f"SGLang's server ended or hung {self._deaths} times, lastly: {gone}{shown}"
            )

    async def _end(self) -> None:
        child = self._child
        self._child = None
        if child is not None:
            await asyncio.to_thread(child.end)
