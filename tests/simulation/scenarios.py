"""The runs that are simulated: small ones, of every way to get labels that costs something."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.fakes.state import label_of

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.runs.leased_run import Goal

EXAMPLES = 12
RUN = "sim"
KEY = "simulated"


@dataclass(frozen=True)
class Scenario:
    """A run, and what holds for it.

    Attributes:
        settings: of the run, beside those that all have.
        people: who label, if any.
        same: whether the labels are those of the undisturbed run, whatever happens.
        once: whether the provider bills each question once at most.
        goal: of its controllers.
    """

    name: str
    settings: dict[str, Any]
    people: tuple[str, ...] = ()
    same: bool = True
    once: bool = True
    goal: Goal = "measure"
    marks: dict[int, str] = field(default_factory=dict)  # in the texts of some examples


PRICE = {"input": 1.0, "output": 4.0}
CHAT = {
    "type": "openai",
    "model": "gpt-4.1-mini",
    "guidelines": "A label.",
    "recovery": "stored",
    "structured": "never",
    "concurrency": 3,
    "timeout_seconds": 60.0,
    "price": PRICE,
    "probe": "off",
    "max_output_tokens": 40,
}
BATCH = CHAT | {"mode": "batch", "shard_rows": 3, "poll_seconds": 5.0}
PEOPLE = {
    "type": "human",
    "mode": "rounds",
    "price_per_label": 0.05,
    "lease_minutes": 0.4,
    "settle_seconds": 2.0,
}
ROUTER = {
    "type": "router",
    "first": CHAT | {"repair": False},
    "then": PEOPLE,
}
ACTIVE = {"strategy": "entropy"}
SPREAD = {"strategy": "k_center"}

# Eight of the twelve examples measure, in two draws.
AUDITED: dict[str, Any] = {"evaluation": {"audit": {"labels": 8}}, "selection": {"count": 1}}

SCENARIOS = (
    Scenario("chat", {"annotator": CHAT, "stopping": {"dollars": 1.0}}),
    Scenario("batch", {"annotator": BATCH, "stopping": {"dollars": 1.0}}),
    Scenario("people", {"annotator": PEOPLE, "stopping": {"dollars": 1.0}}, ("ann", "ben")),
    Scenario("chat-active", {"annotator": CHAT, "selection": ACTIVE, "stopping": {"dollars": 1.0}}),
    Scenario(
        "batch-spread", {"annotator": BATCH, "selection": SPREAD, "stopping": {"dollars": 1.0}}
    ),
    Scenario(
        "chat-blind",
        {
            "annotator": CHAT | {"recovery": "none"},
            "stopping": {"rounds": 1, "dollars": 1.0, "dead_letters": None},
        },
        same=False,
    ),
    Scenario(
        "chat-tight",
        {"annotator": CHAT, "stopping": {"dollars": 0.0018, "dead_letters": None}},
        same=False,
    ),
    Scenario(
        "batch-tight",
        {"annotator": BATCH, "stopping": {"rounds": 1, "dollars": 0.0018, "dead_letters": None}},
        same=False,
    ),
    Scenario("chat-audit", {"annotator": CHAT, "stopping": {"dollars": 1.0}} | AUDITED),
    Scenario(
        "people-audit",
        {"annotator": PEOPLE, "stopping": {"dollars": 1.0}} | AUDITED,
        ("ann",),
    ),
    Scenario(
        "chat-evaluate",
        {"annotator": CHAT, "stopping": {"dollars": 1.0}} | AUDITED,
        goal="evaluate",
    ),
    Scenario(
        "people-two",
        {"annotator": PEOPLE | {"overlap": 2}, "stopping": {"rounds": 1, "dollars": 2.0}},
        ("ann", "ben", "cyd"),
    ),
    Scenario(
        "resend",
        {
            "annotator": CHAT | {"recovery": "none", "in_doubt": "resend"},
            "stopping": {"rounds": 1, "dollars": 1.0, "dead_letters": None},
        },
        same=False,
        once=False,
    ),
)


def text_of(number: int, scenario: Scenario) -> str:
    """Return the text of an example."""
    return f"example {number} says {'word ' * (1 + number % 5)}{scenario.marks.get(number, '')}".strip()


def write_pool(folder: Path, scenario: Scenario) -> None:
    """Write the pool and the test set."""
    for name, first, count in (("pool", 0, EXAMPLES), ("test", 100, 2)):
        rows = [
            {"input": text_of(number, scenario), "answer": label_of(text_of(number, scenario))}
            for number in range(first, first + count)
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content)


def configure(scenario: Scenario, storage: str, data: Path) -> RunConfig:
    """Return the settings of the run."""
    tree: dict[str, Any] = {
        "name": RUN,
        "seed": 7,
        "storage": storage,
        "database_url": f"sqlite:///{data}/atgen.db",
        "data": {
            "pool": str(data / "pool.jsonl"),
            "test": str(data / "test.jsonl"),
            "references": "answer",
            "duplicates": {"action": "off"},
        },
        "model": {"id": "simulated"},
    }
    settings = scenario.settings
    tree["evaluation"] = {"metrics": ["exact_match"], "bootstrap_samples": 10}
    tree["evaluation"] |= settings.get("evaluation", {})
    tree["annotator"] = settings["annotator"]
    tree["selection"] = {"strategy": "random", "count": 3} | settings.get("selection", {})
    tree["stopping"] = {"rounds": 2} | settings["stopping"]
    return parse_config(tree)
