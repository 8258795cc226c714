"""Whole answers of the service's models, with their tokens counted: for a caller who waits, and for
a batch.
"""

import array
import base64
from typing import Any

from fastapi.concurrency import run_in_threadpool

from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.metering import Meter
from atgen_ray.serving.replicas.adapter_directory import ADAPTER, AdapterDirectory
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody, EmbeddingBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.rates import ModelBudget


class Answers:
    """Asks the deployments `model` and `selector`."""

    def __init__(
        self,
        directory: AdapterDirectory | None,
        model: Any,
        selector: Any,
        encoder: str,
        budget: ModelBudget,
    ) -> None:
        """Prepare for the handles of the deployments; `model` None: there is no model.

        Args:
            encoder: the name of the encoder.
        """
        self._directory = directory
        self._model = model
        self._selector = selector
        self._encoder = encoder
        self._budget = budget

    def check(self, body: ChatBody | CompletionBody | EmbeddingBody, caller: Caller) -> None:
        """Check that the caller may ask the model that `body` names; raises ApiError 404."""
        if isinstance(body, EmbeddingBody):
            if body.model != self._encoder:
                raise ApiError(
                    404,
                    f"model {body.model[:200]!r} has no embeddings here, expected {self._encoder}",
                )
        elif self._directory is None or self._model is None:
            raise ApiError(404, f"model {body.model[:200]!r} is unknown: this service has no model")
        else:  # an unknown name is refused before a replica is asked
            check_adapter(self._directory.parse(body.model), caller)

    def check_quota(self, caller: Caller) -> None:
        """Check that the caller has some left of each quota; raises ApiError 429."""
        self._budget.check(caller)

    async def open_meter(self, body: Any, caller: Caller) -> Meter:
        """Return the meter of one answer; raises ApiError 404 or 429."""

        def open() -> Meter:
            self.check(body, caller)  # may ask the journal which adapter a name stands for
            return Meter(self._budget, caller, body)

        return await run_in_threadpool(open)

    async def whole(
        self, body: ChatBody | CompletionBody | EmbeddingBody, caller: Caller
    ) -> dict[str, Any]:
        """Return the whole answer.

        Raises:
            ApiError: 404, the model is unknown; 429, the token has used its tokens of the day.
        """
        meter = await self.open_meter(body, caller)
        if isinstance(body, EmbeddingBody):
            answer = await self._embed(body)
        else:
            answer = await self._model.answer_whole.remote(body)
        meter.read(answer)
        await run_in_threadpool(meter.close)
        return answer

    async def _embed(self, body: EmbeddingBody) -> dict[str, Any]:
        vectors = await self._selector.embed.remote(body.texts)
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
        return {"object": "list", "model": self._encoder, "data": data, "usage": usage}


def check_adapter(name: str | None, caller: Caller) -> None:
    """Check that the run of an adapter was shared with the caller; None: no adapter.

    Raises:
        ApiError: 404 as for a run that does not exist.
    """
    found = ADAPTER.fullmatch(name or "")
    if found is not None and not caller.may_see(found["run"]):
        raise ApiError(404, f"adapter '{name}' is unknown: there is no run '{found['run']}'")
