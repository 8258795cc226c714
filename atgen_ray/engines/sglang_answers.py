"""What SGLang's native HTTP API answers: tokens with their probabilities, and refusals."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atgen_ray.engines.base import TokenStep
from atgen_ray.engines.output_rows import summarize_step
from atgen_ray.engines.sglang_weights import Weights

MESSAGE = 500  # characters of a refusal
NOT_A_NUMBER = "NaN happened"  # what SGLang says "matched" where the logits are no numbers


class SGLangError(Exception):
    """The server cannot be started, ended too often, or answered with other weights.

    It is no RuntimeError: a batch is not halved because of it.
    """


def read_answer(
    answer: Mapping[str, Any], top: int, weights: Weights, given: Sequence[int] = ()
) -> list[TokenStep]:
    """Return the steps of one answer of `/generate`, or of one event of a streamed answer, with
    `top` alternatives each; or those of the `given` answer at the end of the prompt.

    Raises:
        RuntimeError: the request was aborted, or its numbers are none.
        SGLangError: other weights than `weights` have answered.
    """
    meta = answer["meta_info"]
    finish = meta["finish_reason"] or {"type": None}  # none in an event before the last
    if finish["type"] == "abort" or finish.get("matched") == NOT_A_NUMBER:
        raise RuntimeError(f"SGLang: {finish.get('message') or finish.get('matched')}")
    if meta["weight_version"] != weights.loaded:
        raise SGLangError(
            f"SGLang's server answered with the weights '{meta['weight_version']}', expected "
            f"'{weights.loaded}'"
        )
    if given:
        scored = meta["input_token_logprobs"][-len(given) :]
        if [token for _, token, _ in scored] != list(given):
            raise RuntimeError("SGLang: the answer that was to be scored has other tokens")
        return [TokenStep(token, logprob, 0.0) for logprob, token, _ in scored]
    steps = []
    last = len(meta["output_token_logprobs"]) - 1
    for place, ((logprob, token, _), listed) in enumerate(
        zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True)
    ):
        alternatives = {id_: value for value, id_, _ in listed} | {token: logprob}
        _, entropy, _ = summarize_step(alternatives, token, top)
        ranked = sorted(alternatives.items(), key=lambda pair: -pair[1])
        end = finish["type"] if place == last else None
        steps.append(TokenStep(token, logprob, entropy, ranked[:top], end))
    if finish["type"] and not steps:
        raise RuntimeError("SGLang: the answer has no token")
    return steps


def read_refusal(text: str) -> str:
    """Return the message in the body of a refusal, which has one of three forms or is plain."""
    try:
        tree = json.loads(text)
    except ValueError:
        return text[:MESSAGE]
    if not isinstance(tree, dict):
        return str(tree)[:MESSAGE]
    inner = tree.get("error")
    message = inner.get("message") if isinstance(inner, dict) else inner
    return str(message or tree.get("error_message") or tree.get("message") or tree)[:MESSAGE]
