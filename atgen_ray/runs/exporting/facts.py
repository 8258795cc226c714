"""What cards say of a run: facts of its configuration, journal and files, fit for other eyes.

People stand there by number, and files and folders by their last part: a card is made to be
published.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.config.data import FILES
from atgen_ray.core.locations import SCHEME
from atgen_ray.runs.state import RunState
from atgen_ray.store.additions import describe_growths
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import ATTEMPTS
from atgen_ray.store.run_folder import RunFolder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PERSON = "human/"


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run after one of its rounds.

    Attributes:
        base: the untuned model by the name that others may know it by.
        base_id: its id on the hub; None where it is not from there.
        pool, test: the data in the same way; test is None without a test set.
        strategies: name of the strategy of each round.
        labels: that the model could learn from.
        held_out: how many of these are the dev split.
        annotators: labels by annotator, people by number.
        curve: the rows of metrics.json up to the round.
        versions: of Python and packages in the last attempt.
    """

    name: str
    config: RunConfig
    round: int
    base: str
    base_id: str | None
    pool: str
    test: str | None
    strategies: dict[int, str]
    labels: int
    held_out: int
    annotators: dict[str, int]
    curve: list[dict[str, Any]]
    versions: dict[str, str]
    added: int = 0  # examples that were added to the pool later


def collect_facts(config: RunConfig, journal: Journal, folder: RunFolder, round: int) -> RunFacts:
    """Return the facts of the run after `round`."""
    state = RunState(config, journal, folder)
    labels = state.labels(round)
    known = {label.id for label in labels}
    rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
    versions = folder.read_json("versions.json") if folder.exists("versions.json") else {}
    annotators = Counter(number_people(label.annotator for label in labels))
    return RunFacts(
        name=config.name,
        config=config,
        round=round,
        base=name_publicly(config.model.id),
        base_id=config.model.id if is_hub_id(config.model.id) else None,
        pool=name_publicly(config.data.pool),
        test=None if config.data.test is None else name_publicly(config.data.test),
        strategies={at: state.strategy(at)[0] for at in range(1, round + 1)},
        labels=len(labels),
        held_out=len(state.dev(round) & known),
        annotators=dict(annotators.most_common()),
        curve=[row for row in rows if row["round"] <= round],
        versions={key: str(value) for key, value in versions.items() if key != ATTEMPTS},
        added=sum(row["added"] for row in describe_growths(journal.steps(config.name))),
    )


def number_people(annotators: Iterable[str]) -> Iterator[str]:
    """Yield the annotator of each label; in place of people's names stand numbers, in the order
    in which they come.
    """
    numbers: dict[str, int] = {}
    for annotator in annotators:
        if annotator.startswith(PERSON):
            number = numbers.setdefault(annotator, len(numbers) + 1)
            yield f"{PERSON}{number}"
        else:
            yield annotator


def name_publicly(location: str) -> str:
    """Return an id on the hub or a package as it is, and of any other place its last part."""
    if location.startswith(SCHEME) or is_hub_id(location):
        return location
    return PurePosixPath(location.partition("?")[0].rstrip("/")).name or "data"


def is_hub_id(location: str) -> bool:
    """Return whether a model or data set is named by its id on the hub, and is no place here."""
    if not HUB_ID.fullmatch(location) or Path(location).exists():
        return False
    suffix = PurePosixPath(location).suffix.lower()
    return suffix not in FILES and suffix != ".gguf"
