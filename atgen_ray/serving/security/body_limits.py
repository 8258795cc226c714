"""Bodies of requests: read up to a size and within a deadline, before the application sees them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from atgen_ray.serving.errors import ApiError


class CallerGoneError(Exception):
    """The caller closed the connection before its body was there."""


class BodyReader:
    """Bodies of callers who have shown no token yet. A few are read at once.

    When one more comes, the one that has been on its way for longest is given up: a form that a
    person sends is there at once, so those who keep their bodies back give way to it, however many
    they are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading: deque[asyncio.Timeout] = deque()

    @asynccontextmanager
    async def read(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError within the block after `seconds`, or when others need its place."""
        async with asyncio.timeout(seconds) as own:
            if len(self._reading) >= self._limit:
                _give_up(self._reading.popleft())
            self._reading.append(own)
            try:
                yield
            finally:
                if own in self._reading:
                    self._reading.remove(own)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413, it has more than `limit` bytes; a declared size is believed before anything
            is read.
        CallerGoneError: it will never be whole.
    """
    declared = Headers(scope=scope).get("content-length", "")
    body = bytearray()
    more = True
    too_large = declared.isdigit() and int(declared) > limit
    while more and not too_large:
        message = await receive()
        if message["type"] != "http.request":
            raise CallerGoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
        too_large = len(body) > limit
    if too_large:
        raise ApiError(413, f"the body has more than {limit} bytes")
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for the application to read; what comes after it comes from the
    caller.
    """
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return whole.pop() if whole else await receive()

    return replayed


def hurry(receive: Receive, part_seconds: float, seconds: float) -> Receive:
    """A body that the application reads part by part: each has a deadline, and the whole has one.

    Raises:
        ApiError: 408, it was not met.
    """
    end = asyncio.get_running_loop().time() + seconds
    more = True

    async def hurried() -> Message:
        nonlocal more
        if not more:  # what comes now says that the caller has gone, whenever that is
            return await receive()
        try:
            async with asyncio.timeout_at(
                min(end, asyncio.get_running_loop().time() + part_seconds)
            ):
                message = await receive()
        except TimeoutError:
            raise too_slow() from None
        more = bool(message.get("more_body", False))
        return message

    return hurried


def too_slow() -> ApiError:
    """What a caller hears whose body does not come."""
    return ApiError(408, "the body did not come in time")


def _give_up(reading: asyncio.Timeout) -> None:
    if not reading.expired():
        reading.reschedule(asyncio.get_running_loop().time())
