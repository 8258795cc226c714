"""Streams of a model's answers as server-sent events, with their tokens counted."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.answers import Answers
from atgen_ray.serving.errors import error_body, explain
from atgen_ray.serving.metering import Meter
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody, StreamOptions
from atgen_ray.serving.security.callers import Caller

logger = logging.getLogger(__name__)


async def open_stream(
    answers: Answers, model: Any, body: ChatBody | CompletionBody, caller: Caller
) -> tuple[AsyncGenerator[str, None], Callable[[], object]]:
    """Return the events of an answer, and what ends their source. The usage is among them only
    where the body asks for it.

    Args:
        model: handle of the deployment.

    Raises:
        ApiError: 404, the model is unknown; 429, the caller has used up a budget.
    """
    meter = await answers.open_meter(body, caller)
    wanted = body.stream_options is not None and body.stream_options.include_usage
    body = body.model_copy(update={"stream_options": StreamOptions(include_usage=True)})
    # By gRPC, where an event takes half as long as through Ray's object store; Ray's token
    # protects both.
    stream = model.options(stream=True, _by_reference=False).answer.remote(body)
    try:
        # An error before the first event is raised here, where it can still set the status.
        first = await anext(stream)
    except BaseException:  # a cancellation too: nobody else would stop the replica
        stream.cancel()
        raise
    return _measure(_continue(first, stream), meter, wanted), stream.cancel


async def _measure(
    events: AsyncGenerator[str, None], meter: Meter, wanted: bool
) -> AsyncGenerator[str, None]:
    """Yield the events that are for the caller and count the tokens, however the stream ends."""
    try:
        async with aclosing(events):
            async for event in events:
                if meter.look(event, wanted):
                    yield event
    finally:
        # It may write to the database, for which no other stream is to wait.
        asyncio.get_running_loop().run_in_executor(None, meter.close)


async def _continue(first: str, answers: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """Yield the stream from its first event on. A later error can only be sent as an event."""
    yield first
    try:
        async for event in answers:
            yield event
    except Exception as error:  # any error: the caller must not take the stream for complete
        meaning = explain(error)
        if meaning is None:
            logger.error("a stream broke off", exc_info=error)
        status, message = meaning or (500, "the answer broke off; the service's log tells why")
        yield f"data: {encode_json(error_body(status, message))}\n\n"
