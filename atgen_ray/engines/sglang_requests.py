"""Bodies of requests to SGLang's native HTTP API, of which none can end the server."""

from collections.abc import Sequence
from typing import Any

from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.output_rows import ENTROPY_ALTERNATIVES
from atgen_ray.engines.sglang_sampling import name_sampling
from atgen_ray.engines.sglang_weights import Weights


class RequestWriter:
    """Writes the body of `/generate` for a model with `vocabulary` token ids, whose answers end at
    one of `stop_ids`.
    """

    def __init__(self, vocabulary: int, stop_ids: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = list(stop_ids)

    def write(self, requests: Sequence[TokenRequest], weights: Weights) -> dict[str, Any]:
        """Return the body that asks all `requests` of `weights`.

        Raises:
            RuntimeError: a prompt would end the whole server.
        """
        for request in requests:
            self._check(request.token_ids)
            if request.answer_ids:
                self._check(request.answer_ids)
        top = max(ENTROPY_ALTERNATIVES, *(request.top_logprobs for request in requests))
        body = {
            # An answer that is to be scored is the end of the prompt.
            "input_ids": [[*request.token_ids, *request.answer_ids] for request in requests],
            "sampling_params": [name_sampling(each, self._stop_ids) for each in requests],
            "return_logprob": True,
            "top_logprobs_num": top,
        }
        if any(request.answer_ids for request in requests):
            # From the last token of the prompt on, which itself has no log-probability.
            body["logprob_start_len"] = [
                len(request.token_ids) - 1 if request.answer_ids else -1 for request in requests
            ]
        if weights.adapter is not None:  # without room for adapters SGLang refuses even null
            body["lora_path"] = [weights.adapter] * len(requests)
        return body

    def _check(self, token_ids: Sequence[int]) -> None:
        if not token_ids:
            raise RuntimeError("the prompt is empty, expected at least one token")
        outside = [token for token in token_ids if not 0 <= token < self._vocabulary]
        if outside:
            raise RuntimeError(
                f"the prompt has the token id {outside[0]}, expected ids from 0 to "
                f"{self._vocabulary - 1}"
            )
