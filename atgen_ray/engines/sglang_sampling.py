"""Settings of one request in SGLang's own words."""

from collections.abc import Sequence
from typing import Any

from atgen_ray.engines.base import TokenRequest, TokenRules


def name_sampling(request: TokenRequest, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Return `sampling_params` of SGLang's API; `stop_ids` are the tokens that end the output."""
    settings = {
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # SGLang heeds it with the option enable_deterministic_inference, which needs a GPU.
        "sampling_seed": request.seed,
        "stop_token_ids": list(stop_ids),
    }
    return settings | (_name_rules(request.rules, stop_ids) if request.rules else {})


def _name_rules(rules: TokenRules, stop_ids: Sequence[int]) -> dict[str, Any]:
    named: dict[str, Any] = {
        "frequency_penalty": rules.frequency_penalty,
        "presence_penalty": rules.presence_penalty,
        "min_p": rules.min_p,
        "min_new_tokens": rules.min_tokens,
        "ignore_eos": rules.ignore_eos,
        "stop_token_ids": [*([] if rules.ignore_eos else stop_ids), *rules.stop_ids],
    }
    if rules.top_k:
        named["top_k"] = rules.top_k
    if rules.logit_bias:
        named["logit_bias"] = {str(token): bias for token, bias in rules.logit_bias.items()}
    if rules.grammar is not None:
        named["json_schema"] = rules.grammar.schema
    return named
