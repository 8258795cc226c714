"""Log-probabilities of a prompt's own tokens, as `echo` with log-probabilities shows them."""

from collections.abc import Callable
from typing import Any

from atgen_ray.engines.base import TokenRequest, TokenStep

BASE = "__base__"  # what peft calls the model without an adapter
CHUNK = 256  # tokens in one pass, which bounds the memory that logits take


def score_prompt(find_model: Callable[[], Any], request: TokenRequest) -> list[TokenStep]:
    """Return a step for each token of the prompt from the second on, with `prompt_logprobs`
    alternatives; nothing unless the request asks for them.
    """
    if request.prompt_logprobs is None or len(request.token_ids) < 2:
        return []
    import torch
    from peft import PeftModel
    from transformers import DynamicCache

    model = find_model()
    named = {"adapter_names": [request.adapter or BASE]} if isinstance(model, PeftModel) else {}
    ids = torch.tensor([list(request.token_ids)], device=next(model.parameters()).device)
    cache = DynamicCache(config=model.config)
    steps: list[TokenStep] = []
    for start in range(0, ids.shape[1] - 1, CHUNK):
        end = min(start + CHUNK, ids.shape[1] - 1)
        with torch.inference_mode():
            logits = model(
                input_ids=ids[:, start:end], past_key_values=cache, use_cache=True, **named
            ).logits
        steps += _read(
            torch.log_softmax(logits[0].float(), -1),
            ids[0, start + 1 : end + 1],
            request.prompt_logprobs,
        )
    return steps


def _read(logprobs: Any, tokens: Any, alternatives: int) -> list[TokenStep]:
    """Return the steps of `tokens` (T,), given the log-probabilities (T, vocabulary)."""
    import torch

    chosen = logprobs.gather(1, tokens[:, None]).squeeze(1).tolist()
    entropies = torch.special.entr(logprobs.exp()).sum(-1).tolist()
    top = logprobs.topk(max(1, alternatives), dim=-1)
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        TokenStep(token, logprob, entropy, list(zip(*ranked, strict=True))[:alternatives])
        for token, logprob, entropy, ranked in zip(
            tokens.tolist(), chosen, entropies, likeliest, strict=True
        )
    ]
