"""/v1: OpenAI-compatible endpoint in front of the model replicas and the encoder."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from atgen_ray.serving.answers import Answers
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import ADAPTER, AdapterDirectory
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import (
    IGNORED_HEADER,
    CompletionBody,
    EmbeddingBody,
    SharedBody,
)
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.streaming import open_stream

Asker = Annotated[Caller, allow("admin", scope="infer")]


def model_routes(
    directory: AdapterDirectory | None, model: Any, encoder: str, answers: Answers
) -> APIRouter:
    """Return the routes, for admins and the scope `infer`. `model` is the handle of the deployment;
    without one its routes answer 404.

    Args:
        encoder: the name of the encoder.
        answers: what gives whole answers.
    """
    router = APIRouter(prefix="/v1", tags=["models"])

    async def answer(body: ChatBody | CompletionBody, caller: Caller) -> Any:
        headers = name_ignored(body)
        if not body.stream:
            return JSONResponse(await answers.whole(body, caller), headers=headers)
        events, on_close = await open_stream(answers, model, body, caller)
        return EventStream(events, on_close=on_close, headers=headers)

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
        response.headers.update(name_ignored(body))
        return await answers.whole(body, caller)

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


def _list_models(
    directory: AdapterDirectory | None, encoder: str, caller: Caller
) -> list[dict[str, Any]]:
    listed = directory.list() if directory else []
    cards = []
    for id_, created in [*listed, (encoder, 0.0)]:
        named = directory.parse(id_) if directory and id_ != encoder else None
        adapter = ADAPTER.fullmatch(named or "")
        if adapter is None or caller.may_see(adapter["run"]):
            cards.append(
                {"id": id_, "object": "model", "created": int(created), "owned_by": "atgen"}
            )
    return cards
