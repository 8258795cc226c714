"""Dialects of the chat-completions protocol, and what models refuse: facts about wires, as data.

A server that speaks OpenAI's protocol differs from OpenAI in its address, in the name of the limit
of an answer, in how it is told to think, and in what it refuses. `find_dialect` names the dialect
of an annotator. `refuses_temperature` and `thinks` know models by their names, which gateways
prefix with the name of the maker.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

# How a server is told how much to think.
Thinking = Literal["effort", "openrouter", "deepseek", "vllm", "gemini", "litellm"]

BUDGETED = ("openrouter", "gemini", "litellm")  # those that take a budget of thought


@dataclass(frozen=True)
class Dialect:
    """One way to speak the protocol.

    Attributes:
        title: the name in messages.
        url: the address where `base_url` is null; None where only the user knows it.
        variable: the environment variable of the key.
        limit: name of the longest answer in tokens; `by model`: what the model takes.
        schema: how an answer's JSON schema is sent; `json_object` asks for any JSON.
        thinking: how effort and budget of the reasoning are sent.
        prices: the section of the price table, where its prices hold at `url`.
        stores: whether the server keeps answers that can be looked up.
        batches: the path of chat completions in batch jobs; None where there are none.
        hosts: ends of the host names by which the dialect is recognised.
    """

    title: str
    url: str | None
    variable: str
    limit: Literal["max_tokens", "max_completion_tokens", "by model"] = "max_tokens"
    schema: Literal["json_schema", "json_object"] = "json_schema"
    thinking: Thinking = "effort"
    prices: str | None = None
    stores: bool = False
    batches: str | None = None
    hosts: tuple[str, ...] = ()


KEY = "OPENAI_API_KEY"
PATH = "/v1/chat/completions"
DIALECTS: dict[str, Dialect] = {
    "openai": Dialect(
        "OpenAI",
        "https://api.openai.com/v1",
        KEY,
        limit="max_completion_tokens",
        prices="openai",
        stores=True,
        batches=PATH,
        hosts=("api.openai.com",),
    ),
    "azure": Dialect(
        "Azure OpenAI",
        None,
        "AZURE_OPENAI_API_KEY",
        limit="max_completion_tokens",
        batches="/chat/completions",
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
    ),
    "openrouter": Dialect(
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        thinking="openrouter",
        prices="openrouter",
        hosts=("openrouter.ai",),
    ),
    "deepseek": Dialect(
        "DeepSeek",
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        schema="json_object",
        thinking="deepseek",
        prices="deepseek",
        hosts=("api.deepseek.com",),
    ),
    "mistral": Dialect(
        "Mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        prices="mistral",
        hosts=("api.mistral.ai",),
    ),
    "gemini": Dialect(
        "Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        thinking="gemini",
        prices="gemini",
        hosts=("generativelanguage.googleapis.com",),
    ),
    "litellm": Dialect(
        "LiteLLM",
        None,
        "LITELLM_API_KEY",
        limit="by model",
        thinking="litellm",
        batches=PATH,
    ),
    "vllm": Dialect("vLLM", None, "VLLM_API_KEY", thinking="vllm"),
    "ollama": Dialect("Ollama", None, "OLLAMA_API_KEY"),
    "lmstudio": Dialect("LM Studio", None, "LM_STUDIO_API_KEY"),
    "compatible": Dialect("a compatible server", None, KEY, limit="by model", batches=PATH),
}
DialectName = Literal[
    "auto",
    "openai",
    "azure",
    "openrouter",
    "deepseek",
    "mistral",
    "gemini",
    "litellm",
    "vllm",
    "ollama",
    "lmstudio",
    "compatible",
]

OPENAI_REASONING = re.compile(r"(ft:)?(o\d|gpt-[5-9])")
# Claude from Opus 4.7 on, in Anthropic's spelling and in that of gateways.
CLAUDE = re.compile(
    r"(.*\.)?claude-(opus-4[-.][789]|(opus|sonnet|haiku)-[5-9]|fable|mythos|4\.[789]|[5-9])"
)
GEMINI = re.compile(r"gemini-(3\.5-flash-lite|3\.[6-9]|[4-9])")
# Models that think unless told not to. Those of OpenAI from GPT-5.1 to 5.4 do not by default.
THINKERS = re.compile(
    r"(ft:)?(o\d|gpt-5($|-)|gpt-5\.[5-9]|gpt-[6-9])"
    r"|(.*\.)?claude-((opus|sonnet|haiku)-[5-9]|fable|mythos|[5-9])"
    r"|gemini-(2\.5-(pro|flash($|-[^l]))|[3-9])|deepseek-(reasoner|r1|flash|v4)|magistral|gpt-oss"
    r"|qwq"
)


def find_dialect(name: str, base_url: str | None) -> Dialect:
    """Return the dialect called `name`; `auto`: that of the host of `base_url`, or OpenAI's where
    there is none.
    """
    if name != "auto":
        return DIALECTS[name]
    if base_url is None:
        return DIALECTS["openai"]
    host = urlsplit(base_url).hostname or ""
    for dialect in DIALECTS.values():
        if any(host == end or (end[0] == "." and host.endswith(end)) for end in dialect.hosts):
            return dialect
    return DIALECTS["compatible"]


def is_own_address(dialect: Dialect, base_url: str | None) -> bool:
    """Return whether requests go to the service itself, where its prices hold, and not to a server
    in its place.
    """
    if base_url is None or dialect.url is None:
        return base_url is None and dialect.url is not None
    return urlsplit(base_url)[:2] == urlsplit(dialect.url)[:2]


def stores_answers(recovery: str, dialect: str, base_url: str | None) -> bool:
    """Return whether single requests ask the server to keep prompt and answer (store: true)."""
    if recovery == "auto":
        return find_dialect(dialect, base_url).stores
    return recovery == "stored"


def refuses_temperature(model: str, effort: str | None) -> bool:
    """Return whether the model answers a temperature other than 1 with an error.

    Models of OpenAI that need not think take one where `effort` is none.
    """
    name = _bare(model)
    if OPENAI_REASONING.match(name):
        return effort != "none" or re.match(r"(ft:)?(o\d|gpt-5($|-))", name) is not None
    return bool(CLAUDE.match(name) or GEMINI.match(name))


def wants_completion_limit(model: str) -> bool:
    """Return whether the model refuses `max_tokens` and takes `max_completion_tokens`."""
    return OPENAI_REASONING.match(_bare(model)) is not None


def thinks(model: str, effort: str | None, budget: int | None) -> bool:
    """Return whether the model spends tokens of its answer on thought, as far as its name tells."""
    if effort == "none" or budget == 0:
        return False
    return bool(effort or budget or THINKERS.match(_bare(model)))


def _bare(model: str) -> str:
    """Return the name of a model without the maker that gateways put before it."""
    return model.lower().rpartition("/")[2]
