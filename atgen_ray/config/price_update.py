"""Price tables from the file that LiteLLM publishes, and their listing.

LiteLLM's `model_prices_and_context_window.json` is an object of models, each with
`litellm_provider`, `mode`, dollars for one token (`input_cost_per_token`,
`cache_read_input_token_cost`, ...) and, where it is known, `deprecation_date`. Models that answer
no chat completions are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from atgen_ray.config.prices import (
    MILLION,
    ListedPrice,
    LongPrice,
    PriceSection,
    PriceTable,
    parse_prices,
    prices_path,
)
from atgen_ray.core.errors import UserError, nearest

PUBLISHED = (
    "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
)
# Providers of the table, each with what LiteLLM puts before the names of its models, and the share
# that batch mode saves where the file does not say.
PROVIDERS = {
    "openai": ("", 0.0),
    "anthropic": ("", 0.0),
    "mistral": ("mistral/", 0.5),
    "gemini": ("gemini/", 0.5),
    "deepseek": ("deepseek/", 0.0),
    "openrouter": ("openrouter/", 0.0),
}
CHAT = "/v1/chat/completions"
PLAIN = re.compile(r"[a-z][\w./-]*")  # a name that needs no quotes
LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens$")
SECONDS = 60.0
MOST_BYTES = 64 << 20


def update_prices(location: str) -> tuple[Path, PriceTable]:
    """Write the user's price table from LiteLLM's file at `location`, a path or a URL; return where
    it is and what is in it.

    Raises:
        UserError: there is no such file, or it is in another format.
    """
    text, day = _read(location)
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"--from is {location[:200]!r}, which is no JSON: {error}") from None
    table = convert_prices(tree if isinstance(tree, dict) else {}, location, day)
    if not table:
        raise UserError(
            f"--from is {location[:200]!r}, which holds no price of {', '.join(PROVIDERS)}, "
            f"expected the format of {PUBLISHED}"
        )
    text = write_prices(table)
    parse_prices(text, "the new table")  # what is written can be read
    path = prices_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f"{path.name}.new")
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return path, table


def convert_prices(tree: Mapping[str, Any], source: str, day: date) -> PriceTable:
    """Return the table of the prices in LiteLLM's `tree`, read from `source` on `day`."""
    models: dict[str, dict[str, ListedPrice]] = {}
    for name, entry in tree.items():
        provider = entry.get("litellm_provider") if isinstance(entry, dict) else None
        if provider in PROVIDERS and (price := _convert(entry, PROVIDERS[provider][1])):
            bare = name.removeprefix(PROVIDERS[provider][0])
            models.setdefault(provider, {}).setdefault(bare, price)
    return {
        provider: PriceSection(
            source=source,
            date=day.isoformat(),
            batch_discount=PROVIDERS[provider][1],
            models=dict(sorted(models[provider].items())),
        )
        for provider in PROVIDERS
        if provider in models
    }


def write_prices(table: PriceTable) -> str:
    """Return the table as YAML, one model a line."""
    return "\n".join(_list_lines(table)) + "\n"


def find_provider(name: str | None, table: PriceTable) -> PriceTable:
    """Return the section called `name` alone, or all without a name.

    Raises:
        UserError: there is no such section.
    """
    if name is None:
        return table
    if name not in table:
        raise UserError(f"--provider is {name[:80]!r}, expected a provider{nearest(name, table)}")
    return {name: table[name]}


def _list_lines(table: PriceTable) -> Iterator[str]:
    for provider, section in table.items():
        yield f"{provider}:"
        yield f"  source: {json.dumps(section.source)}"
        yield f'  date: "{section.date}"'
        yield f"  batch_discount: {section.batch_discount:g}"
        yield "  models:"
        for name, price in section.models.items():
            values = price.model_dump(exclude_none=True)
            pairs = ", ".join(f"{key}: {_show(value)}" for key, value in values.items())
            yield f"    {name if PLAIN.fullmatch(name) else json.dumps(name)}: {{{pairs}}}"


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_show(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _convert(entry: Mapping[str, Any], discount: float) -> ListedPrice | None:
    """Return the price in one entry of LiteLLM's file; None for a model without one, or one that
    answers no chat completions.
    """
    if entry.get("mode") != "chat" or CHAT not in (entry.get("supported_endpoints") or [CHAT]):
        return None
    prompt = _dollars(entry, "input_cost_per_token")
    output = _dollars(entry, "output_cost_per_token")
    if prompt is None or output is None or not prompt + output:
        return None
    retires = entry.get("deprecation_date")
    successor = entry.get("successor_model")
    batch = _discount(entry, prompt, output)
    return ListedPrice(
        input=prompt,
        output=output,
        cached=_dollars(entry, "cache_read_input_token_cost"),
        written=_dollars(entry, "cache_creation_input_token_cost") or None,
        batch_discount=None if batch == discount else batch,
        long=_find_long(entry),
        retires=retires if isinstance(retires, str) and _is_day(retires) else None,
        successor=successor if isinstance(successor, str) else None,
    )


def _discount(entry: Mapping[str, Any], prompt: float, output: float) -> float | None:
    """Return the share that batch mode saves of prompt and answer alike, or None if unknown."""
    lower = [
        (_dollars(entry, "input_cost_per_token_batches"), prompt),
        (_dollars(entry, "output_cost_per_token_batches"), output),
    ]
    shares = [1.0 - paid / full for paid, full in lower if paid is not None and full]
    return max(0.0, round(min(shares), 4)) if len(shares) == len(lower) else None


def _find_long(entry: Mapping[str, Any]) -> LongPrice | None:
    """Return the price from the first length on at which prompts grow dearer."""
    found = sorted(int(match[1]) for match in map(LONG.fullmatch, entry) if match is not None)
    for thousands in found:
        tail = f"per_token_above_{thousands}k_tokens"
        prompt = _dollars(entry, f"input_cost_{tail}")
        output = _dollars(entry, f"output_cost_{tail}")
        if prompt is not None and output is not None:
            return LongPrice(above=thousands * 1000, input=prompt, output=output)
    return None


def _dollars(entry: Mapping[str, Any], name: str) -> float | None:
    """Return dollars for a million tokens."""
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        return None
    return round(value * MILLION, 6)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _read(location: str) -> tuple[str, date]:
    """Return the text at a path or URL, and the day that it is of."""
    try:
        if location.startswith(("http://", "https://")):
            # Only addresses of the two schemes come here.
            with urlopen(location, timeout=SECONDS) as answer:  # noqa: S310 # nosec B310
                return answer.read(MOST_BYTES).decode(), datetime.now(UTC).date()
        path = Path(location).expanduser()
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return path.read_text(encoding="utf-8"), changed.date()
    except (OSError, ValueError) as error:
        raise UserError(f"--from is {location[:200]!r}, which cannot be read: {error}") from None
