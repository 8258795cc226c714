"""Requests of the OpenAI API as requests for tokens."""

import random
from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.engines.base import TokenRequest, TokenRules
from atgen_ray.engines.grammar import Grammar, GrammarError, Grammars
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.chat_prompts import render_chat
from atgen_ray.serving.schemas.chat import ChatBody
from atgen_ray.serving.schemas.openai import CompletionBody

SEEDS = 2**31


class RequestBuilder:
    """Makes the requests for one model; errors are those of the caller."""

    def __init__(self, service: ServiceConfig, tokenizer: Any, scores_prompts: bool) -> None:
        """Prepare for the service's model.

        Args:
            scores_prompts: whether the engine tells log-probabilities of the prompt's own tokens.
        """
        self._service = service
        self._tokenizer = tokenizer
        self._scores_prompts = scores_prompts
        self._grammars = Grammars(tokenizer)

    def build(self, body: ChatBody | CompletionBody, adapter: str | None) -> list[TokenRequest]:
        """Return the requests of all choices, those of one prompt together.

        Args:
            adapter: the engine's name of it; None is the base model.

        Raises:
            ApiError: 400, a prompt is empty or too long, or something in it is unknown.
        """
        if isinstance(body, ChatBody):
            prompts = [self._encode_chat(body, adapter is not None)]
        else:
            prompts = self._encode_prompts(body)
        rules = self._read_rules(body)
        return [
            request
            for prompt in prompts
            for request in self._continue(body, prompt, rules, adapter)
        ]

    def _read_rules(self, body: ChatBody | CompletionBody) -> TokenRules | None:
        """Return what shapes the choice of tokens; None leaves the model as it is."""
        self._check_tokens([*body.biases, *body.stop_token_ids])
        rules = TokenRules(
            frequency_penalty=body.frequency_penalty,
            presence_penalty=body.presence_penalty,
            logit_bias=body.biases,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            min_tokens=body.min_tokens,
            ignore_eos=body.ignore_eos,
            stop_ids=tuple(body.stop_token_ids),
            grammar=self._read_grammar(body),
        )
        return None if rules == TokenRules() else rules

    def _read_grammar(self, body: ChatBody | CompletionBody) -> Grammar | None:
        schema = body.answer_schema if isinstance(body, ChatBody) else None
        if schema is None:
            return None
        try:
            return self._grammars.compile(schema)
        except GrammarError as error:
            raise ApiError(400, str(error)) from None

    def _continue(
        self,
        body: ChatBody | CompletionBody,
        prompt: list[int],
        rules: TokenRules | None,
        adapter: str | None,
    ) -> list[TokenRequest]:
        model = self._service.target_model
        limit = model.max_prompt_tokens + model.max_new_tokens
        asked = body.most_tokens
        room = min(limit - len(prompt), self._service.limits.output_tokens)
        if room < 1 or (asked is not None and asked > room):
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, which leaves room for {max(room, 0)} more",
            )
        seed = random.getrandbits(31) if body.seed is None else body.seed % SEEDS
        return [
            TokenRequest(
                token_ids=prompt,
                # An echo alone needs a pass over the prompt too, which gives a token.
                max_new_tokens=room if asked is None else max(asked, 1),
                temperature=body.temperature,
                top_p=body.top_p,
                seed=seed + index,
                top_logprobs=(body.top_logprobs if isinstance(body, ChatBody) else body.logprobs)
                or 0,
                adapter=adapter,
                rules=rules,
                prompt_logprobs=self._scored(body),
            )
            for index in range(body.n)
        ]

    def _scored(self, body: ChatBody | CompletionBody) -> int | None:
        """Return the alternatives wanted of each token of the prompt; None: it is not scored."""
        if isinstance(body, ChatBody) or not body.echo or body.logprobs is None:
            return None
        if not self._scores_prompts:
            raise ApiError(
                400,
                "echo with logprobs is not known to SGLang here, expected engine.backend vllm or "
                "transformers",
            )
        return body.logprobs

    def _encode_chat(self, body: ChatBody, tuned: bool) -> list[int]:
        text = render_chat(self._tokenizer, body, tuned)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _encode_prompts(self, body: CompletionBody) -> list[list[int]]:
        prompts = []
        for prompt in body.prompts:
            tokens = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            if not tokens:
                raise ApiError(400, "prompt is empty, expected at least one token")
            self._check_tokens(tokens)
            prompts.append(list(tokens))
        return prompts

    def _check_tokens(self, tokens: list[int]) -> None:
        size = len(self._tokenizer)
        highest = max(tokens, default=0)
        if highest >= size:
            raise ApiError(400, f"the token id {highest} is unknown, expected 0 to {size - 1}")
