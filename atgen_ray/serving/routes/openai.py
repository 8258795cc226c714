"""/v1: OpenAI-compatible endpoint in front of the model replicas and the encoder."""

import array
import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from atgen_ray.config import ServiceConfig
from atgen_ray.core.strict_json import encode_json
from atgen_ray.serving.errors import ApiError, error_body, explain
from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory, name_model
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.schemas.openai import ChatBody, CompletionBody, EmbeddingBody
from atgen_ray.serving.security.roles import allow

logger = logging.getLogger(__name__)


def model_routes(
    service: ServiceConfig, directory: AdapterDirectory | None, model: Any, selector: Any
) -> APIRouter:
    """Return the routes, for admins. `model` and `selector` are handles of deployments; without a
    model its routes answer 404.
    """
    router = APIRouter(prefix="/v1", tags=["models"], dependencies=[allow("admin")])
    encoder = name_model(service.embedding.model)

    async def answer(body: ChatBody | CompletionBody) -> Any:
        if directory is None or model is None:
            raise ApiError(404, f"model {body.model[:200]!r} is unknown: this service has no model")
        directory.parse(body.model)  # an unknown name is refused before a replica is asked
        if not body.stream:
            return JSONResponse(await model.answer_whole.remote(body))
        # By gRPC, where an event takes half as long as through Ray's object store; Ray's token
        # protects both.
        answers = model.options(stream=True, _by_reference=False).answer.remote(body)
        try:
            # An error before the first event is raised here, where it can still set the status.
            first = await anext(answers)
        except BaseException:  # a cancellation too: nobody else would stop the replica
            answers.cancel()
            raise
        return EventStream(_continue(first, answers), on_close=answers.cancel)

    @router.post("/chat/completions")
    async def chat(body: ChatBody) -> Any:
        """Answer a conversation."""
        return await answer(body)

    @router.post("/completions")
    async def complete(body: CompletionBody) -> Any:
        """Continue texts."""
        return await answer(body)

    @router.post("/embeddings")
    async def embed(body: EmbeddingBody) -> dict[str, Any]:
        """Return vectors of length 1 from the service's encoder."""
        if body.model != encoder:
            raise ApiError(
                404, f"model {body.model[:200]!r} has no embeddings here, expected {encoder}"
            )
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
        return {"object": "list", "model": encoder, "data": data, "usage": usage}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the base model, every adapter of every run, and the encoder."""
        return {"object": "list", "data": await run_in_threadpool(_list_models, directory, encoder)}

    @router.get("/models/{name:path}")
    async def find_model(name: str) -> dict[str, Any]:
        """Show one model."""
        for card in await run_in_threadpool(_list_models, directory, encoder):
            if card["id"] == name:
                return card
        raise ApiError(404, f"model {name[:200]!r} is unknown; GET /v1/models lists all")

    return router


def _list_models(directory: AdapterDirectory | None, encoder: str) -> list[dict[str, Any]]:
    names = [*(directory.list() if directory else []), (encoder, 0.0)]
    return [
        {"id": id_, "object": "model", "created": int(created), "owned_by": "atgen"}
        for id_, created in names
    ]


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
