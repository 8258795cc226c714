"""HTTP client of SGLang's servers on this machine."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from atgen_ray.engines.sglang_answers import read_refusal
from atgen_ray.engines.sglang_process import ServerProcess

STREAM_END = b"[DONE]"


class ServerGoneError(Exception):
    """The server ended or hung while it was asked."""

    def __init__(self, child: ServerProcess, reason: str) -> None:
        super().__init__(reason)
        self.child = child


class SGLangClient:
    """Asks servers with their API keys. It belongs to one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # The buffer must hold a line: an event with the alternatives of many tokens.
            self._session = aiohttp.ClientSession(read_bufsize=2**20)
        return self._session

    async def ask(
        self, child: ServerProcess, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Any:
        """Return the server's JSON answer to a POST of `body`, or to a GET without one.

        Raises:
            RuntimeError: the server refuses; the message is its own.
            ServerGoneError: it ended, or took longer than `seconds`.
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
            raise ServerGoneError(child, f"no answer to {path} in {seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            raise ServerGoneError(child, f"{path}: {error}") from None
        if status != 200:
            raise RuntimeError(f"SGLang: {read_refusal(text) or f'status {status}'}")
        return json.loads(text) if text else None

    async def stream(
        self, child: ServerProcess, body: Mapping[str, Any], seconds: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of a streamed answer of `/generate`, each with the tokens since the one
        before. Raises as `ask`.
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
            raise ServerGoneError(child, f"no whole answer in {seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            raise ServerGoneError(child, f"/generate: {error}") from None

    async def close(self) -> None:
        """Close all connections; they are opened anew for the next request."""
        if self._session is not None:
            await self._session.close()
            self._session = None
