"""Prices of the tokens of paid models, from a table or `annotator.price`.

The table has a section for each provider, with the source and the date of its prices. It is the
shipped `prices.yaml`; a section of the user's own table, which `atgen-ray prices update` writes,
replaces the shipped one unless that is newer.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path

from platformdirs import user_config_path
from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationError, field_validator

from atgen_ray.config.annotators.paid_models import (
    AnthropicAnnotatorConfig,
    OpenAIAnnotatorConfig,
    RemoteAnnotatorConfig,
)
from atgen_ray.config.dialects import find_dialect, is_own_address
from atgen_ray.config.messages import format_validation_errors
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.money import NANO
from atgen_ray.core.schema import Fraction, Section
from atgen_ray.core.strict_yaml import parse_yaml

VARIABLE = "ATGEN_PRICES"
SNAPSHOT = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
MILLION = 1_000_000
STALE_DAYS = 60
LEAST_CACHED = 512  # tokens, the shortest prompt that any provider caches


def _check_day(day: str | None) -> str | None:
    try:
        if day is not None:
            date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"is {day!r}, expected a day, as 2026-11-29") from None
    return day


class LongPrice(Section):
    """Another price of requests with long prompts."""

    above: PositiveInt = Field(description="Prompt tokens from which on it holds")
    input: NonNegativeFloat = Field(description="Dollars for a million prompt tokens")
    output: NonNegativeFloat = Field(description="Dollars for a million output tokens")


class ListedPrice(Section):
    """Prices of a model in dollars for a million tokens, and when it ends."""

    input: NonNegativeFloat = Field(description="Prompt tokens")
    output: NonNegativeFloat = Field(description="Output tokens")
    cached: NonNegativeFloat | None = Field(None, description="Prompt tokens out of the cache")
    written: NonNegativeFloat | None = Field(None, description="Prompt tokens into the cache")
    batch_discount: Fraction | None = Field(None, description="Share that batch mode saves")
    long: LongPrice | None = Field(None, description="Price of long prompts")
    retires: str | None = Field(None, description="Day on which the provider ends the model")
    successor: str | None = Field(None, description="Model that the provider names in its place")

    _is_day = field_validator("retires")(_check_day)


class PriceSection(Section):
    """Prices of a provider."""

    source: str = Field(description="Where the prices were read")
    date: str = Field(description="Day on which they were read")
    batch_discount: Fraction = Field(0.0, description="Share that batch mode saves")
    models: dict[str, ListedPrice] = Field(description="Prices by model")

    _is_day = field_validator("date")(_check_day)


PriceTable = dict[str, PriceSection]


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens; `source` says where the price comes from.

    `cached` and `written` are for prompt tokens that the provider's cache had, or took in; None: as
    `input`. `long` holds for longer prompts.
    """

    input: float
    output: float
    source: str
    cached: float | None = None
    written: float | None = None
    long: LongPrice | None = None

    def nano(
        self, prompt_tokens: int, output_tokens: int, cached: int = 0, written: int = 0
    ) -> int:
        """Return the price of so many tokens in billionths of a dollar, rounded up; `cached` and
        `written` of the prompt tokens came out of the cache and went into it.
        """
        each = self._reaching(prompt_tokens)
        hit = each.input if each.cached is None else each.cached
        miss = each.input if each.written is None else each.written
        plain = max(0, prompt_tokens - cached - written)
        dollars = plain * each.input + cached * hit + written * miss + output_tokens * each.output
        return math.ceil(dollars * NANO / MILLION)

    def bound(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the most that so many tokens can cost: all of a prompt may enter the cache, which
        some providers charge for.
        """
        each = self._reaching(prompt_tokens)
        dearer = (each.written or 0.0) > each.input and prompt_tokens >= LEAST_CACHED
        return self.nano(prompt_tokens, output_tokens, written=prompt_tokens if dearer else 0)

    def scaled(self, share: float) -> "Price":
        """Return the price of which `share` is paid."""

        def part(dollars: float | None) -> float | None:
            return None if dollars is None else dollars * share

        long = self.long and LongPrice(
            above=self.long.above, input=self.long.input * share, output=self.long.output * share
        )
        return Price(
            self.input * share,
            self.output * share,
            self.source,
            part(self.cached),
            part(self.written),
            long,
        )

    def _reaching(self, prompt_tokens: int) -> "Price":
        """Return the price of a request with so many prompt tokens."""
        if self.long is None or prompt_tokens <= self.long.above:
            return self
        # Cached tokens grow dearer by the same factor.
        longer = self.scaled(self.long.input / self.input if self.input else 1.0)
        return replace(longer, input=self.long.input, output=self.long.output, long=None)


def find_price(config: RemoteAnnotatorConfig, key: str, mode: str | None = None) -> Price:
    """Return the price of `config.model` in `mode` (default: the mode of `config`).

    Raises:
        ValueError: the price is unknown; the message names the keys to set below `key`.
    """
    batch = (mode or config.mode) == "batch"
    listed = find_listed(config)
    if config.price is not None:
        own = config.price
        price = Price(own.input, own.output, f"{key}.price", own.cached, own.written)
        return price.scaled(1.0 - own.batch_discount) if batch else price
    if listed is None:
        section = _find_section(config)
        hint = nearest(config.model, section.models) if section else " at this base_url"
        if hint.startswith("; known"):  # too many for a line
            hint = "; `atgen-ray prices list` shows the known ones"
        raise ValueError(
            f"{key}.model is {config.model!r}, whose price is unknown: set {key}.price.input and "
            f"{key}.price.output, dollars for a million tokens{hint}"
        )
    section, model = listed
    discount = section.batch_discount if model.batch_discount is None else model.batch_discount
    # Anthropic caches what the request marks, the others what they like.
    caches = not isinstance(config, AnthropicAnnotatorConfig) or config.prompt_cache
    price = Price(
        model.input,
        model.output,
        f"{section.source}, {section.date}",
        model.cached,
        model.written if caches else None,
        model.long,
    )
    return price.scaled(1.0 - discount) if batch else price


def find_listed(config: RemoteAnnotatorConfig) -> tuple[PriceSection, ListedPrice] | None:
    """Return the entry of `config.model` in the price table with its section, or None.

    A model that is listed itself comes before its family: a dated snapshot, or a fine-tuned model,
    that is not listed has the price of its model.
    """
    section = _find_section(config)
    if section is None:
        return None
    name = config.model
    families = [name, SNAPSHOT.sub("", name)]
    if name.startswith("ft:"):  # ft:MODEL:ORGANISATION:NAME:ID
        families += [":".join(name.split(":")[:2])]
    for family in families:
        if family in section.models:
            return section, section.models[family]
    return None


def find_price_warnings(config: RemoteAnnotatorConfig, key: str, today: date) -> list[str]:
    """Return a line for a price that is older than STALE_DAYS, and one for a model that is going to
    end.
    """
    listed = find_listed(config)
    if listed is None:
        return []
    section, model = listed
    lines = []
    age = (today - date.fromisoformat(section.date)).days
    if config.price is None and age > STALE_DAYS:
        lines.append(
            f"the price of {config.model} was read on {section.date}, more than {STALE_DAYS} days "
            f"ago: `atgen-ray prices update` renews it, {key}.price replaces it"
        )
    if model.retires and date.fromisoformat(model.retires) > today:
        lines.append(
            f"{key}.model is {config.model!r}, which ends on {model.retires}{_name(model)}"
        )
    return lines


def find_retired(config: RemoteAnnotatorConfig, key: str, today: date) -> str | None:
    """Return the line that refuses a model which its provider has ended, else None.

    A price of one's own says that one knows better.
    """
    listed = find_listed(config)
    if listed is None or config.price is not None:
        return None
    section, model = listed
    if model.retires is None or date.fromisoformat(model.retires) > today:
        return None
    return (
        f"{key}.model is {config.model!r}, which ended on {model.retires} (as of {section.date})"
        f"{_name(model)}; set {key}.price to ask it all the same"
    )


def read_prices() -> PriceTable:
    """Return the price table by provider, the user's own sections included.

    Raises:
        UserError: the user's table cannot be read.
    """
    path = prices_path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        if VARIABLE in os.environ:
            raise UserError(
                f"{VARIABLE} is {str(path)!r}, which cannot be read: {error.strerror}"
            ) from None
        return read_shipped()
    own = _read_own(path, changed)
    newer = {
        name: section
        for name, section in own.items()
        if name not in read_shipped() or section.date >= read_shipped()[name].date
    }
    return read_shipped() | newer


def prices_path() -> Path:
    """Return where the user's own table is, or would be."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return user_config_path("atgen-ray") / "prices.yaml"


@cache
def read_shipped() -> PriceTable:
    """Return the shipped table."""
    return parse_prices((files("atgen_ray.config") / "prices.yaml").read_text(), "prices.yaml")


@cache
def _read_own(path: Path, changed: int) -> PriceTable:
    try:
        return parse_prices(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def parse_prices(text: str, name: str) -> PriceTable:
    """Return the table in `text`. Raise UserError with a line for the first mistake."""
    table = {}
    for provider, section in parse_yaml(text, name).items():
        try:
            table[provider] = PriceSection.model_validate(section)
        except ValidationError as error:
            (line, *_) = format_validation_errors(error, PriceSection, f"{provider}.")
            raise UserError(f"{name} is no price table: {line}") from None
    return table


def _find_section(config: RemoteAnnotatorConfig) -> PriceSection | None:
    """Return the section whose prices hold where `config` sends its requests, or None."""
    if isinstance(config, OpenAIAnnotatorConfig):
        dialect = find_dialect(config.dialect, config.base_url)
        own = is_own_address(dialect, config.base_url)
        return read_prices().get(dialect.prices or "") if own else None
    provider: str = config.type  # type: ignore[attr-defined]
    return read_prices().get(provider) if config.base_url is None else None


def _name(model: ListedPrice) -> str:
    """Return what names the successor of a model, if one is known."""
    return f": expected its successor {model.successor!r}" if model.successor else ""
