"""/v1: OpenAI-compatible endpoint in front of the model replicas and the encoder."""

import array
import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from atgen_ray.config import ServiceConfig
from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.errors import ApiError, error_body, explain
from atgen_ray.serving.metering import Meter
from atgen_ray.serving.replicas.adapter_directory import ADAPTER, AdapterDirectory, name_model
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import (
    IGNORED_HEADER,
    CompletionBody,
    EmbeddingBody,
    SharedBody,
    StreamOptions,
)
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.rates import ModelBudget
from atgen_ray.serving.security.roles import allow

Asker = Annotated[Caller, allow("admin", scope="infer")]

logger = logging.getLogger(__name__)


def model_routes(
    service: ServiceConfig,
    directory: AdapterDirectory | None,
    model: Any,
    selector: Any,
    budget: ModelBudget,
) -> APIRouter:
    """Return the routes, for admins and the scope `infer`. `model` and `selector` are handles of
    deployments; without a model its routes answer 404.
    """
    router = APIRouter(prefix="/v1", tags=["models"])
    encoder = name_model(service.embedding.model)

    async def answer(body: ChatBody | CompletionBody, caller: Caller) -> Any:
        if directory is None or model is None:
            raise ApiError(404, f"model {body.model[:200]!r} is unknown: this service has no model")
        # An unknown name is refused before a replica is asked.
        check_adapter(directory.parse(body.model), caller)
        meter = await run_in_threadpool(Meter, budget, caller, body)
        if not body.stream:
            whole = await model.answer_whole.remote(body)
            meter.read(whole)
            await run_in_threadpool(meter.close)
            return JSONResponse(whole, headers=name_ignored(body))
        headers = name_ignored(body)
        wanted = body.stream_options is not None and body.stream_options.include_usage
        if meter.counts:
            body = body.model_copy(update={"stream_options": StreamOptions(include_usage=True)})
        # By gRPC, where an event takes half as long as through Ray's object store; Ray's token
        # protects both.
        answers = model.options(stream=True, _by_reference=False).answer.remote(body)
        try:
            # An error before the first event is raised here, where it can still set the status.
            first = await anext(answers)
        except BaseException:  # a cancellation too: nobody else would stop the replica
            answers.cancel()
            raise
        events = _measure(_continue(first, answers), meter, wanted)
        return EventStream(events, on_close=answers.cancel, headers=headers)

    @router.post("/chat/completions")
    async def chat(body: ChatBody, caller: Asker) -> Any:
        """Answer a conversation."""
        return await answer(body, caller)

    @router.post("/completions")
    async def complete(body: CompletionBody, caller: Asker) -> Any:
        """Continue texts."""
        return await answer(body, caller)

    @router.post("/embeddings")
    async def embed(body: EmbeddingBody, caller: Asker, response: Response) -> dict[str, Any]:
        """Return vectors of length 1 from the service's encoder."""
        if body.model != encoder:
            raise ApiError(
                404, f"model {body.model[:200]!r} has no embeddings here, expected {encoder}"
            )
        response.headers.update(name_ignored(body))
        meter = await run_in_threadpool(Meter, budget, caller, body)
        vectors = await selector.embed.remote(body.texts)
        if body.encoding_format == "base64":
            vectors = [
                base64.b64encode(array.array("f", vector).tobytes()).decode() for vector in vectors
            ]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        words = sum(len(text.split()) for text in body.texts)  # the encoder reports no tokens
        usage = {"prompt_tokens": words, "total_tokens": words}
        whole = {"object": "list", "model": encoder, "data": data, "usage": usage}
        meter.read(whole)
        await run_in_threadpool(meter.close)
        return whole

    @router.get("/models")
    async def models(caller: Asker) -> dict[str, Any]:
        """List the base model, the adapters of every run that the caller may see, and the
        encoder.
        """
        found = await run_in_threadpool(_list_models, directory, encoder, caller)
        return {"object": "list", "data": found}

    @router.get("/models/{name:path}")
    async def find_model(name: str, caller: Asker) -> dict[str, Any]:
        """Show one model."""
        for card in await run_in_threadpool(_list_models, directory, encoder, caller):
            if card["id"] == name:
                return card
        raise ApiError(404, f"model {name[:200]!r} is unknown; GET /v1/models lists all")

    return router


def name_ignored(body: SharedBody) -> dict[str, str]:
    """Return the header that names the parameters of `body` that are not used."""
    return {IGNORED_HEADER: ", ".join(body.ignored)} if body.ignored else {}


def check_adapter(name: str | None, caller: Caller) -> None:
    """Check that the run of an adapter was shared with the caller; None: no adapter.

    Raises:
        ApiError: 404 as for a run that does not exist.
    """
    found = ADAPTER.fullmatch(name or "")
    if found is not None and not caller.may_see(found["run"]):
        raise ApiError(404, f"adapter '{name}' is unknown: there is no run '{found['run']}'")


def _list_models(
    directory: AdapterDirectory | None, encoder: str, caller: Caller
) -> list[dict[str, Any]]:
    names = [*(directory.list() if directory else []), (encoder, 0.0)]
    cards = []
    for id_, created in names:
        adapter = ADAPTER.fullmatch(id_.partition(":")[2])
        if adapter is None or caller.may_see(adapter["run"]):
            cards.append(
                {"id": id_, "object": "model", "created": int(created), "owned_by": "atgen"}
            )
    return cards


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
        meter.close()


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
