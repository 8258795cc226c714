"""/v1/responses: the model's answers in the newer form of the OpenAI API."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from atgen_ray.serving.answers import Answers
from atgen_ray.serving.response_objects import ResponseMaker
from atgen_ray.serving.routes.event_stream import EventStream
from atgen_ray.serving.routes.openai import name_ignored
from atgen_ray.serving.schemas.responses import ResponsesBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.roles import allow
from atgen_ray.serving.streaming import open_stream

Asker = Annotated[Caller, allow("admin", scope="infer")]


def response_routes(model: Any, answers: Answers) -> APIRouter:
    """Return the route, for admins and the scope `infer`. `model` is the handle of the deployment;
    without one it answers 404.
    """
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.post("/responses")
    async def respond(body: ResponsesBody, caller: Asker) -> Any:
        """Answer an input; nothing is stored."""
        try:
            chat = body.to_chat()
        except ValidationError as error:  # what chats say of it holds here too
            told = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise RequestValidationError(told) from None
        headers = name_ignored(body)
        maker = ResponseMaker(body)
        if not body.stream:
            answer = await answers.whole(chat, caller)
            return JSONResponse(maker.whole(answer), headers=headers)
        events, on_close = await open_stream(answers, model, chat, caller)
        return EventStream(maker.stream(events), on_close=on_close, headers=headers)

    return router
