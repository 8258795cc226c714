"""Limits on request bodies: they are read up to a size and within a deadline, before the
application sees them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from atgen_ray.serving.errors import ApiError


class CallerGoneError(Exception):
    """The caller closed the connection before its body was complete."""


class BodyReader:
    """Reader of bodies from callers without a token; at most `limit` are read at once.

    One more caller ends the oldest read: the form of a person arrives at once, so callers that
    withhold their bodies cannot block it, however many they are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading: deque[asyncio.Timeout] = deque()

    @asynccontextmanager
    async def read(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError within the block after `seconds`, or when others need its slot."""
        async with asyncio.timeout(seconds) as own:
            if len(self._reading) >= self._limit:
                _expire(self._reading.popleft())
            self._reading.append(own)
            try:
                yield
            finally:
                if own in self._reading:
                    self._reading.remove(own)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body.

    Raises:
        ApiError: 413, the body has more than `limit` bytes, or its declared size says so.
        CallerGoneError: the body will never be complete.
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
    """Return a `receive` that gives the application a body that was read already, and then what
    the caller sends.
    """
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return whole.pop() if whole else await receive()

    return replayed


def limit_time(receive: Receive, part_seconds: float, seconds: float) -> Receive:
    """Return a `receive` for a body that the application reads in parts, with a deadline for each
    part and for the whole.

    Raises:
        ApiError: 408, a deadline was missed.
    """
    end = asyncio.get_running_loop().time() + seconds
    more = True

    async def hurried() -> Message:
        nonlocal more
        if not more:  # only the message that the caller has left can follow
            return await receive()
        try:
            async with asyncio.timeout_at(
                min(end, asyncio.get_running_loop().time() + part_seconds)
            ):
                message = await receive()
        except TimeoutError:
            raise slow_body_error() from None
        more = bool(message.get("more_body", False))
        return message

    return hurried


def slow_body_error() -> ApiError:
    """Return the error for a body that does not arrive in time."""
    return ApiError(408, "the body did not come in time")


def _expire(reading: asyncio.Timeout) -> None:
    if not reading.expired():
        reading.reschedule(asyncio.get_running_loop().time())
