"""Prices of the tokens of paid models, from the shipped table prices.yaml or `annotator.price`."""

import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from atgen_ray.config.annotation import PriceConfig, RemoteAnnotatorConfig
from atgen_ray.core.errors import nearest
from atgen_ray.core.money import NANO
from atgen_ray.core.strict_yaml import parse_yaml

SNAPSHOT = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens; `source` says where the price comes from."""

    input: float
    output: float
    source: str

    def nano(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the price of so many tokens in billionths of a dollar, rounded up."""
        return math.ceil(
            (prompt_tokens * self.input + output_tokens * self.output) * NANO / MILLION
        )


def find_price(config: RemoteAnnotatorConfig, key: str, mode: str | None = None) -> Price:
    """Return the price of `config.model` in `mode` (default: the mode of `config`).

    Raises:
        ValueError: the price is unknown; the message names the keys to set below `key`.
    """
    provider: str = config.type  # type: ignore[attr-defined]
    table = read_prices()[provider]
    # A dated snapshot has the price of its model.
    model = config.model if config.model in table["models"] else SNAPSHOT.sub("", config.model)
    if config.price is not None:
        price = config.price
        discount = config.price.batch_discount
        source = f"{key}.price"
    elif model in table["models"] and config.base_url is None:
        price = PriceConfig(**table["models"][model])
        discount = table["batch_discount"]
        source = f"{table['source']}, {table['date']}"
    else:
        hint = (
            " at another base_url"
            if model in table["models"]
            else nearest(config.model, table["models"])
        )
        raise ValueError(
            f"{key}.model is {config.model!r}, whose price is unknown: set {key}.price.input and "
            f"{key}.price.output, "
            f"dollars for a million tokens{hint}"
        )
    share = 1.0 - discount if (mode or config.mode) == "batch" else 1.0
    return Price(price.input * share, price.output * share, source)


@cache
def read_prices() -> dict[str, Any]:
    """Return the shipped table by provider."""
    table: dict[str, Any] = parse_yaml(
        (files("atgen_ray.config") / "prices.yaml").read_text(), "prices.yaml"
    )
    return table
