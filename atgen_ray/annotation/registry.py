"""Registry of annotators: `ANNOTATORS` maps `annotator.type` to the function that builds it."""

import itertools
from collections.abc import Callable
from typing import Any

from atgen_ray.annotation.context import AnnotationContext, Annotator
from atgen_ray.annotation.dataset import DatasetAnnotator
from atgen_ray.annotation.disclosure import list_remote
from atgen_ray.annotation.human.annotator import HumanAnnotator
from atgen_ray.annotation.llm.annotator import LLMAnnotator
from atgen_ray.annotation.llm.billing import BillingPolicy
from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.llm.error_policy import Timeouts
from atgen_ray.annotation.llm.token_counter import find_counter
from atgen_ray.annotation.providers.anthropic import AnthropicBatch, AnthropicMessages
from atgen_ray.annotation.providers.base import Provider
from atgen_ray.annotation.providers.gemini import GeminiBatch, GeminiChat
from atgen_ray.annotation.providers.mistral import MistralBatch, MistralChat
from atgen_ray.annotation.providers.openai import OpenAIChat
from atgen_ray.annotation.providers.openai_batch import OpenAIBatch
from atgen_ray.annotation.router import Router
from atgen_ray.config import AnnotatorConfig, RemoteAnnotatorConfig, RunConfig, list_annotators
from atgen_ray.config.annotators.language_models import LLMAnnotatorConfig, ModelAnnotatorConfig
from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, PLUGIN
from atgen_ray.config.prices import find_price
from atgen_ray.core.money import to_nano
from atgen_ray.store.layout import round_folder

# Clients by `annotator.type`: of single requests, and of batch jobs. Their SDKs are imported when
# one is made.
PROVIDERS: dict[str, tuple[Callable[[Any, str, str], Provider], ...]] = {
    "openai": (OpenAIChat, OpenAIBatch),
    "anthropic": (AnthropicMessages, AnthropicBatch),
    "mistral": (MistralChat, MistralBatch),
    "gemini": (GeminiChat, GeminiBatch),
}


def build_provider(config: RemoteAnnotatorConfig, run: str, key: str) -> Provider:
    """Return the client of the provider that `config` names; `key` is its configuration key.

    Raises:
        UserError: the SDK is not installed, or there is no key.
    """
    provider: str = config.type  # type: ignore[attr-defined]
    single, batch = PROVIDERS[provider]
    return (batch if config.mode == "batch" else single)(config, run, key)


def build_timeouts(config: RemoteAnnotatorConfig) -> Timeouts:
    """Return the timeouts that the configuration sets."""
    return Timeouts(
        outage=config.outage_minutes * 60,
        poll=config.poll_seconds,
        batch=config.batch_hours * 3600,
        call=config.timeout_seconds,
        # A request whose connection broke may still be answered for as long as a call may last.
        lookup=config.timeout_seconds,
    )


def build_remote(
    config: RemoteAnnotatorConfig,
    context: AnnotationContext,
    key: str,
    timeouts: Timeouts | None = None,
) -> LLMAnnotator:
    """Return an annotator that asks a paid provider, or a server that speaks its protocol.

    `timeouts` replace those of the configuration.
    """
    price = find_price(config, key)
    bounds = CostBounds(config, price, find_counter(config, key))
    billing = BillingPolicy(
        worst=bounds.worst,
        cost=price.nano,
        resend=config.in_doubt == "resend",
        cancel=config.on_stop == "cancel",
        longest=config.max_output_tokens,
        bounds=bounds,
    )
    provider = build_provider(config, context.config.name, key)
    name = name_stage(f"{provider.name}/{config.model}", config, context.config, key)
    return LLMAnnotator(
        config, context, provider, billing, timeouts or build_timeouts(config), name
    )


def name_stage(name: str, config: LLMAnnotatorConfig, run: RunConfig, key: str) -> str:
    """Return the name of the annotator or judge at `key`, with a number where earlier stages of a
    router, or earlier judges, ask the same model: the request log tells them by their names.
    """
    judges = run.evaluation.list_judges()
    peers = judges if key.startswith("evaluation.") else list_annotators(run.annotator)
    before = list(itertools.takewhile(lambda peer: peer[0] != key, peers))
    model = _name_model(config)
    same = sum(
        isinstance(each, LLMAnnotatorConfig) and _name_model(each) == model for _, each in before
    )
    return f"{name}#{same + 1}" if same else name


def _name_model(config: LLMAnnotatorConfig) -> tuple[str, str]:
    model: Any = config.model  # type: ignore[attr-defined]
    return config.type, model if isinstance(model, str) else model.id  # type: ignore[attr-defined]


def build_local(config: ModelAnnotatorConfig, context: AnnotationContext, key: str) -> LLMAnnotator:
    """Return an annotator that runs a language model on our own workers."""
    from atgen_ray.annotation.providers.local import LocalModel

    nano = to_nano(config.price_per_label)
    billing = BillingPolicy(
        worst=lambda request: nano, cost=lambda *tokens: nano, resend=True, cancel=False
    )
    parts = f"{round_folder(context.round)}/annotation.parts"
    provider = LocalModel(config, context.folder, parts, context.config.seed, context.progress)
    return LLMAnnotator(
        config,
        context,
        provider,
        billing,
        Timeouts(outage=60.0, lookup=0.0),
        name_stage(f"model/{config.model.id}", config, context.config, key),
        release=provider.close,
    )


ANNOTATORS: dict[str, Callable[[Any, AnnotationContext, str], Annotator]] = {
    "dataset": lambda config, context, key: DatasetAnnotator(config, context),
    "human": lambda config, context, key: HumanAnnotator(config, context),
    **dict.fromkeys(PROVIDERS, build_remote),
    "model": build_local,
    "router": lambda config, context, key: Router(config, context, build_annotator),
    PLUGIN: lambda config, context, key: ANNOTATOR_PLUGINS[config.name].build(config, context, key),
}


def build_annotator(
    config: AnnotatorConfig, context: AnnotationContext, key: str = "annotator"
) -> Annotator:
    """Return the annotator that the configuration names, in the context of one round; `key` is its
    configuration key.

    Raises:
        UserError: what it needs is not there: a key, a package.
    """
    return ANNOTATORS[config.type](config, context, key)


def check_annotators(config: RunConfig) -> None:
    """Check that annotators and judge have their keys and packages, so that the user learns of a
    missing one before the first round.

    Raises:
        UserError: a key or a package is missing.
    """
    for key, annotator in list_remote(config):
        build_provider(annotator, config.name, key)
