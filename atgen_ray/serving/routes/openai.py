"""/v1: the OpenAI-compatible endpoint over the model replicas and the encoder."""

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
from atgen_ray.serving.errors import ApiError, describe_fault, explain
from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory, name_model
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.schemas.openai import ChatBody, CompletionBody, EmbeddingBody
from atgen_ray.serving.security.roles import allow

logger = logging.getLogger(__name__)


def model_routes(
    service: ServiceConfig, directory: AdapterDirectory | None, model: Any, selector: Any
) -> APIRouter:
    """`model` and `selector` are handles of deployments; without a model, its routes answer 404."""
    router = APIRouter(prefix="/v1", tags=["models"], dependencies=[allow("admin")])
    encoder = name_model(service.embedding.model)

    async def answer(body: ChatBody | CompletionBody) -> Any:
        if directory is None or model is None:
            raise ApiError(404, f"model {body.model[:200]!r} is unknown: this service has no model")
        directory.parse(body.model)  # before a replica is asked
        if not body.stream:
            return JSONResponse(await model.answer_whole.remote(body))
        # By gRPC, which takes half as long for an event as an object of Ray's does; it has Ray's
        # token all the same.
        answers = model.options(stream=True, _by_reference=False).answer.remote(body)
        try:
            first = await anext(
                answers
            )  # faults are raised here, while the status can still say so
        except BaseException:  # the caller may have gone away: nobody else would tell the replica
            answers.cancel()
            raise
        return EventStream(_continue(first, answers), on_close=answers.cancel)

    @router.post("/chat/completions")
    async def chat(body: ChatBody) -> Any:
        """A turn of a conversation."""
        return await answer(body)

    @router.post("/completions")
    async def complete(body: CompletionBody) -> Any:
        """Texts continued as they stand."""
        return await answer(body)

    @router.post("/embeddings")
    async def embed(body: EmbeddingBody) -> dict[str, Any]:
        """Vectors of the service's encoder, of length 1."""
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
        words = sum(len(text.split()) for text in body.texts)  # the encoder tells no tokens
        usage = {"prompt_tokens": words, "total_tokens": words}
        return {"object": "list", "model": encoder, "data": data, "usage": usage}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The base model, every adapter of every run, and the encoder."""
        return {"object": "list", "data": await run_in_threadpool(_list_models, directory, encoder)}

    @router.get("/models/{name:path}")
    async def find_model(name: str) -> dict[str, Any]:
        """One of them."""
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
    """The stream from its first event on. What goes wrong later can only be told as an event."""
    yield first
    try:
        async for event in answers:
            yield event
    except Exception as error:  # whatever it is, the caller must not take the stream for whole
        meaning = explain(error)
        if meaning is None:
            logger.error("a stream broke off", exc_info=error)
        status, message = meaning or (500, "the answer broke off; the service's log tells why")
        yield f"data: {encode_json(describe_fault(status, message))}\n\n"
