"""Annotators by the name that the configuration gives them, and how each is built."""

from collections.abc import Callable
from typing import Any

from atgen_ray.annotation.context import AnnotationContext, Annotator
from atgen_ray.annotation.dataset import DatasetAnnotator
from atgen_ray.annotation.human.annotator import HumanAnnotator
from atgen_ray.annotation.llm.annotator import LLMAnnotator
from atgen_ray.annotation.llm.dispatcher import BillingPolicy
from atgen_ray.annotation.llm.error_policy import Timeouts
from atgen_ray.annotation.llm.prompts import bound_cost
from atgen_ray.annotation.providers.base import Provider
from atgen_ray.annotation.router import Router
from atgen_ray.config import AnnotatorConfig, RemoteAnnotatorConfig, RunConfig, list_annotators
from atgen_ray.config.annotation import ModelAnnotatorConfig
from atgen_ray.config.prices import find_price
from atgen_ray.core.money import to_nano


def build_provider(config: RemoteAnnotatorConfig, run: str, key: str) -> Provider:
    """The way to ask the provider that `config` names; `key` is its configuration key.

    Raises:
        UserError: the SDK is not installed, or there is no key.
    """
    if config.type == "openai":  # type: ignore[attr-defined]
        from atgen_ray.annotation.providers.openai import OpenAIBatch, OpenAIChat

        return (OpenAIBatch if config.mode == "batch" else OpenAIChat)(config, run, key)  # type: ignore[arg-type]
    from atgen_ray.annotation.providers.anthropic import AnthropicBatch, AnthropicMessages

    return (AnthropicBatch if config.mode == "batch" else AnthropicMessages)(config, run, key)  # type: ignore[arg-type]


def build_timeouts(config: RemoteAnnotatorConfig) -> Timeouts:
    """How long the configuration lets us wait."""
    return Timeouts(
        outage=config.outage_minutes * 60,
        poll=config.poll_seconds,
        batch=config.batch_hours * 3600,
        call=config.timeout_seconds,
        # What was sent may still be at work for as long as a call may last.
        doubt=config.timeout_seconds,
    )


def build_remote(
    config: RemoteAnnotatorConfig,
    site: AnnotationContext,
    key: str,
    patience: Timeouts | None = None,
) -> LLMAnnotator:
    """A model of a paid provider, or of a server that speaks its protocol; patient as it is told to
    be.
    """
    price = find_price(config, key)
    terms = BillingPolicy(
        worst=lambda ask: bound_cost(config, price, ask.prompt),
        cost=price.nano,
        resend=config.in_doubt == "resend",
        cancel=config.on_stop == "cancel",
    )
    provider = build_provider(config, site.config.name, key)
    name = f"{provider.name}/{config.model}"
    return LLMAnnotator(config, site, provider, terms, patience or build_timeouts(config), name)


def build_local(config: ModelAnnotatorConfig, site: AnnotationContext, key: str) -> LLMAnnotator:
    """A model on our own workers."""
    from atgen_ray.annotation.providers.local import LocalModel

    nano = to_nano(config.price_per_label)
    terms = BillingPolicy(
        worst=lambda ask: nano, cost=lambda prompt, output: nano, resend=True, cancel=False
    )
    parts = f"rounds/{site.round:03d}/annotation.parts"
    provider = LocalModel(config, site.folder, parts, site.config.seed, site.progress)
    return LLMAnnotator(
        config, site, provider, terms, Timeouts(outage=60.0, doubt=0.0), f"model/{config.model.id}"
    )


ANNOTATORS: dict[str, Callable[[Any, AnnotationContext, str], Annotator]] = {
    "dataset": lambda config, site, key: DatasetAnnotator(config, site),
    "human": lambda config, site, key: HumanAnnotator(config, site),
    "openai": build_remote,
    "anthropic": build_remote,
    "model": build_local,
    "router": lambda config, site, key: Router(config, site, build_annotator),
}


def build_annotator(
    config: AnnotatorConfig, site: AnnotationContext, key: str = "annotator"
) -> Annotator:
    """The annotator that the configuration asks for, at work in one round; `key` is its
    configuration key.

    Raises:
        UserError: what it needs is not there: a key, a package.
    """
    return ANNOTATORS[config.type](config, site, key)


def check_annotators(config: RunConfig) -> None:
    """Nothing, where what annotators and judge need is there; so that a missing key is told before
    the first round.

    Raises:
        UserError: a key or a package is missing.
    """
    for key, annotator in list_annotators(config.annotator):
        if isinstance(annotator, RemoteAnnotatorConfig):
            build_provider(annotator, config.name, key)
    if isinstance(config.evaluation.judge, RemoteAnnotatorConfig):
        build_provider(config.evaluation.judge, config.name, "evaluation.judge")
