"""What a run tells about its paid models before it asks them: where pool text goes and stays, what
is sent otherwise than configured, and prices and models that are no longer good.
"""

import os
from collections.abc import Iterator
from datetime import date

from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.providers.sdk import ANTHROPIC, CACHED_BYTES
from atgen_ray.config import (
    AnthropicAnnotatorConfig,
    OpenAIAnnotatorConfig,
    RemoteAnnotatorConfig,
    RunConfig,
    list_annotators,
)
from atgen_ray.config.dialects import DIALECTS, KEY, find_dialect, stores_answers, thinks
from atgen_ray.config.prices import find_price, find_price_warnings, find_retired

BYTES_A_TOKEN = 4  # about, in English
ROOM_TO_THINK = 2048  # tokens of an answer below which a model that thinks may not come to its end


def list_remote(config: RunConfig) -> Iterator[tuple[str, RemoteAnnotatorConfig]]:
    """Yield the paid models of a run with their keys: annotators, judges and rivals."""
    for key, asked in (*list_annotators(config.annotator), *config.evaluation.list_asked()):
        if isinstance(asked, RemoteAnnotatorConfig):
            yield key, asked


def find_remote_notes(config: RunConfig) -> list[str]:
    """Return where each paid model is, what stays there, and what is sent otherwise than the
    configuration seems to say.
    """
    notes = []
    for key, annotator in list_remote(config):
        address, variable = locate_model(annotator)
        source = annotator.api_key_file or variable
        notes.append(f"{key}: pool text goes to {address}, with the key of {source}")
        notes += find_stored(key, annotator)
        notes += _find_cached(key, annotator, config)
        temperature = annotator.temperature
        if temperature not in (None, 1.0) and annotator.sent_temperature is None:
            notes.append(
                f"{key}.temperature is {temperature:g}, which {annotator.model} refuses: none is "
                f"sent, and it draws at 1"
            )
        effort = annotator.reasoning_effort
        most = annotator.max_output_tokens
        if thinks(annotator.model, effort, annotator.thinking_tokens) and most < ROOM_TO_THINK:
            notes.append(
                f"{key}.max_output_tokens is {most}, within which {annotator.model} thinks before "
                f"it answers: {ROOM_TO_THINK} or more, or a lower {key}.reasoning_effort, leave "
                f"room for the answer"
            )
    return notes


def find_stored(key: str, annotator: RemoteAnnotatorConfig) -> list[str]:
    """Return the line that says that a provider keeps prompts and answers, if it does."""
    if not isinstance(annotator, OpenAIAnnotatorConfig) or annotator.mode == "batch":
        return []
    if not stores_answers(annotator.recovery, annotator.dialect, annotator.base_url):
        return []
    title = find_dialect(annotator.dialect, annotator.base_url).title
    return [
        f"{key}.recovery is '{annotator.recovery}': {title} keeps every prompt and answer "
        f"(store: true), so that a lost answer is found; 'none' keeps nothing"
    ]


def _find_cached(key: str, annotator: RemoteAnnotatorConfig, config: RunConfig) -> list[str]:
    """Return what the part that all prompts share costs out of the provider's cache, where that is
    cheaper and the part is long enough.
    """
    price = find_price(annotator, key)
    writer = PromptWriter(annotator, config.prompt)
    shared = writer.write("").shared_bytes
    marks = not isinstance(annotator, AnthropicAnnotatorConfig) or annotator.prompt_cache
    if price.cached is None or price.cached >= price.input or shared < CACHED_BYTES or not marks:
        return []
    tokens = shared // BYTES_A_TOKEN
    dollars = (tokens * each / 1000 for each in (price.cached, price.input))  # 1,000 requests
    return [
        "{}: about {:,} tokens of each prompt are the same in all; out of the provider's cache "
        "they cost {:.2f} dollars in 1,000 requests, else {:.2f}".format(key, tokens, *dollars)
    ]


def find_remote_warnings(config: RunConfig, today: date) -> list[str]:
    """Return a line for each price that is old and each model that is going to end."""
    return [
        line
        for key, annotator in list_remote(config)
        for line in find_price_warnings(annotator, key, today)
    ]


def find_ended_models(config: RunConfig, today: date) -> list[str]:
    """Return a line for each model that its provider has ended."""
    lines = (find_retired(annotator, key, today) for key, annotator in list_remote(config))
    return [line for line in lines if line]


def locate_model(annotator: RemoteAnnotatorConfig) -> tuple[str, str]:
    """Return the address that a paid model is asked at, and the environment variable that its key
    is read from.
    """
    if isinstance(annotator, AnthropicAnnotatorConfig):
        return annotator.base_url or ANTHROPIC, "ANTHROPIC_API_KEY"
    if isinstance(annotator, OpenAIAnnotatorConfig):
        dialect = find_dialect(annotator.dialect, annotator.base_url)
    else:
        provider: str = annotator.type  # type: ignore[attr-defined]
        dialect = DIALECTS[provider]
    spare = annotator.base_url is not None and not os.environ.get(dialect.variable)
    return annotator.base_url or dialect.url or "", KEY if spare else dialect.variable
