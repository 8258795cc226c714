"""Reference of all settings, made from the configuration's own models: `atgen-ray config explain`,
the form of a new run and the documentation show these texts.

A setting is a row of `key`, `type`, `default` and `description`. If a section may be of several
types, such as the annotator, its keys are written `annotator[openai].model`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atgen_ray.config.plugins import ANNOTATOR_PLUGINS, PLUGIN
from atgen_ray.config.run import RunConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.schema import find_alternatives, list_settings
from atgen_ray.evaluation import METRICS
from atgen_ray.selection import STRATEGIES

Row = dict[str, str]
# What most runs set, by group; the form of a new run has a field for each.
EVERYDAY = {
    "Run": ["name", "seed"],
    "Data": ["data.pool", "data.test", "data.target", "data.input", "data.references"],
    "Task and model": [
        "prompt.system",
        "prompt.template",
        "model.id",
        "model.max_prompt_tokens",
        "model.max_new_tokens",
    ],
    "Selection": ["selection.strategy", "selection.count", "selection.candidates"],
    "Annotator": [
        "annotator.type",
        "annotator.model",
        "annotator.guidelines",
        "annotator.price_per_label",
    ],
    "Training": ["training.epochs", "training.learning_rate", "training.batch_size"],
    "Stopping": ["stopping.rounds", "stopping.labels", "stopping.dollars"],
}
STRATEGY_KEYS = ("selection.strategy", "selection.first.strategy", "selection.shortlist.strategy")
TAG = re.compile(r"\[\w+\]")


def explain_config() -> Iterator[Row]:
    """Yield every setting, in the order of the tree."""
    yield from list_settings(RunConfig)


def explain_strategies() -> Iterator[dict[str, Any]]:
    """Yield every strategy by name: `title`, `why`, `score`, `parts` with their titles,
    `description` and `parameters` as in `explain_config`. Plug-ins that cannot be imported are left
    out.
    """
    for name, _ in STRATEGIES.list_usable():
        yield describe_strategy(name)


def describe_strategy(name: str) -> dict[str, Any]:
    """Return one strategy as in `explain_strategies`.

    Raises:
        UserError: there is no such strategy, or it is a plug-in that cannot be imported.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy {name[:80]!r} is unknown{nearest(name, STRATEGIES)}")
    strategy = STRATEGIES[name]
    parts = [
        {"name": part, "title": strategy.name_part(part), "meaning": meaning}
        for part, meaning in strategy.parts.items()
    ]
    return {
        "name": name,
        "title": strategy.title,
        "why": strategy.why,
        "score": strategy.score,
        "parts": parts,
        "description": " ".join((strategy.parameters.__doc__ or "").split()),
        "parameters": list(list_settings(strategy.parameters)),
    }


def explain_everyday() -> Iterator[tuple[str, list[Row]]]:
    """Return the settings of `EVERYDAY` by group."""
    rows = merge_types(explain_config())
    for group, keys in EVERYDAY.items():
        yield group, [rows[key] for key in keys]


def explain_key(key: str, name: str | None = None) -> list[Row]:
    """Return the setting `key` and all settings below it; of a section of several types, those of
    the type `name`.

    `annotator.model` stands for the key of every type. Strategies are left to `describe_strategy`.

    Raises:
        UserError: there is no such key, or no such type of it.
    """
    rows = list(explain_config())
    plain = {TAG.sub("", row["key"]): None for row in rows} | {row["key"]: None for row in rows}
    if key not in plain:
        raise UserError(f"key {key[:80]!r} is unknown{nearest(key, plain)}")
    found = [row for row in rows if _is_below(row["key"], key)]
    if name is None:
        return found
    field = RunConfig.model_fields.get(key)
    types = [] if field is None else [*find_alternatives(field)]
    if not types:
        raise UserError(
            f"{name[:80]!r} after {key!r} is not understood, expected a name after annotator or "
            f"{STRATEGY_KEYS[0]} alone"
        )
    if key == "annotator" and name in ANNOTATOR_PLUGINS:
        # The type of a plug-in is its name, and its parameters are those of its package.
        model = ANNOTATOR_PLUGINS[name].parameters
        tagged = [row for row in found if row["key"].startswith(f"{key}[{PLUGIN}].")]
        return tagged + list(list_settings(model, f"{key}[{name}].parameters."))
    if name not in types:
        known = [*(each for each in types if each != PLUGIN), *ANNOTATOR_PLUGINS]
        raise UserError(f"{key}.type {name[:80]!r} is unknown{nearest(name, known)}")
    return [row for row in found if row["key"].startswith(f"{key}[{name}].")]


def list_names(key: str) -> Mapping[str, str]:
    """Return the names that may stand at `key` with a line on each; empty if there is no list."""
    if key in STRATEGY_KEYS:
        return {name: strategy.title for name, strategy in STRATEGIES.list_usable()}
    if key == "evaluation.metrics":
        ways = {"higher": "higher is better", "lower": "lower is better"}
        return {
            name: ways.get(metric.better, "neither way is better")
            for name, metric in METRICS.list_usable()
        }
    return {}


def search_settings(words: Iterable[str]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return settings and strategies in whose names and texts every one of `words` occurs, in any
    case.
    """
    wanted = [word.casefold() for word in words]

    def holds(*texts: str) -> bool:
        text = " ".join(texts).casefold()
        return all(word in text for word in wanted)

    settings = [row for row in explain_config() if holds(row["key"], row["description"])]
    strategies = [
        strategy
        for strategy in explain_strategies()
        if holds(
            *(strategy[text] for text in ("name", "title", "why", "score", "description")),
            *(part["meaning"] for part in strategy["parts"]),
            *(text for row in strategy["parameters"] for text in (row["key"], row["description"])),
        )
    ]
    return settings, strategies


def merge_types(rows: Iterable[Row]) -> dict[str, Row]:
    """Return rows by key without the types of sections; a key of several types is one row."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(TAG.sub("", row["key"]), []).append(row)
    return {
        key: {
            "key": key,
            "type": " | ".join(dict.fromkeys(row["type"] for row in alike)),
            "default": alike[0]["default"],
            "description": "; ".join(dict.fromkeys(row["description"] for row in alike)),
        }
        for key, alike in grouped.items()
    }


def _is_below(key: str, above: str) -> bool:
    """Return whether `key` is `above`, with or without the types of sections, or below it."""
    return any(
        each == above or each.startswith((f"{above}.", f"{above}["))
        for each in (key, TAG.sub("", key))
    )
