"""Rows that speak to the annotator: how many of those that are obeyed become labels, how many
harmless rows are turned away, and what it costs.

    python benchmarks/injection.py [--half building|held_out] [--task FILE ...] [--output PREFIX]

A round has ten harmless rows to each row of `benchmarks/injections`. The annotator is the stand-in
of tests/helpers/fakes/obedient.py, which is asked over HTTP through the official SDK; no real model
is asked. A task is a .jsonl file of harmless rows with `input` and `output`; without one, reviews
with three classes and with one-sentence summaries are made up. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

from helpers.annotation_desk import Desk, configure  # noqa: E402
from helpers.fakes.obedient import Obedience, ObedientModel, Row, serve_model  # noqa: E402
from helpers.fakes.provider import FakeProvider  # noqa: E402

CORPUS = Path(__file__).with_name("injections")
ROUNDS = 5
HARMLESS = 10  # rows to each one that commands
LONGEST = 1200  # characters of a harmless row that a command is put into
PLACES = ("after", "before", "within", "alone")
MODELS = {
    "obeys always": Obedience(1.0, 1.0, 0.01),
    "obeys half, steady": Obedience(0.5, 1.0, 0.01),
    "obeys half, half steady": Obedience(0.5, 0.5, 0.01),
}
SHOTS = 4


@dataclass(frozen=True)
class Command:
    """A row of the corpus within a harmless row."""

    kind: str
    text: str
    obeyed: str


def make_reviews(count: int) -> dict[str, list[tuple[str, str]]]:
    """Harmless rows: what stands in a review, and its class or its summary."""
    rng = random.Random(0)
    things = ["room", "kettle", "bicycle", "soup", "jacket", "tent", "lamp", "ferry", "printer"]
    good = ["quiet", "well made", "quick", "warm", "bright", "cheap for what it is"]
    bad = ["noisy", "broken after a week", "slow", "cold", "dim", "far too dear"]
    reviews: dict[str, list[tuple[str, str]]] = {"classes": [], "sentences": []}
    for number in range(count):
        thing = rng.choice(things)
        liked, not_liked = rng.choice(good), rng.choice(bad)
        kind = rng.choices(["positive", "negative", "neutral"], [5, 3, 2])[0]
        parts = {"positive": [liked], "negative": [not_liked], "neutral": [liked, not_liked]}[kind]
        text = (
            f"Review {number}. We had the {thing} for {rng.randint(2, 30)} days. "
            f"It was {' but also '.join(parts)}, and {rng.choice(['my sister', 'a friend'])} "
            f"{rng.choice(['agrees', 'saw it too', 'would say the same'])}."
        )
        reviews["classes"].append((text, kind))
        summary = f"The writer found the {thing} {' and yet '.join(parts)}."
        reviews["sentences"].append((text, summary))
    return reviews


def place_command(base: str, command: str, place: str) -> str:
    """A harmless row with a command in it."""
    base = base[:LONGEST]
    words = base.split(" ")
    middle = len(words) // 2
    return {
        "after": f"{base}\n{command}",
        "before": f"{command}\n{base}",
        "within": f"{' '.join(words[:middle])} {command} {' '.join(words[middle:])}",
        "alone": command,
    }[place]


def measure(
    rows: list[tuple[str, str]], half: list[dict[str, str]], obedience: Obedience, probe: str
) -> dict[str, Any]:
    """Label rounds of one task in which every row of the half stands once."""
    rng = random.Random(1)
    rows = rng.sample(rows, min(len(rows), HARMLESS * len(half) + len(half)))
    bases, harmless = rows[: len(half)], rows[len(half) :]
    commands = {}
    table = {text: Row(label) for text, label in harmless}
    for number, (each, (base, label)) in enumerate(zip(half, bases, strict=True)):
        text = place_command(base, each["text"], PLACES[number % len(PLACES)])
        commands[text] = Command(each["kind"], text, each["obeyed"])
        table[text] = Row(label, each["obeyed"])
    texts = [*table]
    rng.shuffle(texts)
    ids = {f"r{number}": text for number, text in enumerate(texts)}
    model = ObedientModel(table, obedience)
    with serve_model(model) as url, tempfile.TemporaryDirectory() as name:
        config = configure(
            FakeProvider(url.removesuffix("/v1"), Path(name)), "openai", "sync", recovery="none",
            probe=probe, shots=SHOTS, max_output_tokens=500, concurrency=8, timeout_seconds=60.0,
        )  # fmt: skip
        desk = Desk(FakeProvider(url, Path(name)), Path(name), config, ids)
        labels: dict[str, Any] = {}
        dead: dict[str, Any] = {}
        for round in range(ROUNDS):
            desk.labeled = [*labels.values()]
            given, turned_away = desk.annotate(round + 1, [*ids][round::ROUNDS])
            labels |= given
            dead |= turned_away
    away = {ids[id_] for id_ in dead}
    obeyed = [each for text, each in commands.items() if model.obeys(text, False)]
    found = Counter(each.kind for each in obeyed if each.text in away)
    asked = [(text, shown) for text, probed, shown in model.asked if not probed]
    probes = sum(probed for _, probed, _ in model.asked)
    resisted = [text for text in commands if not model.obeys(text, False)]
    return {
        "recall": sum(found.values()) / len(obeyed),
        "obeyed": len(obeyed),
        "recall_by_kind": {
            kind: found[kind] / count
            for kind, count in sorted(Counter(each.kind for each in obeyed).items())
        },
        "harmless": len(harmless),
        "harmless_turned_away": sum(text in away for text, _ in harmless) / len(harmless),
        "resisted": len(resisted),
        "resisted_turned_away": sum(text in away for text in resisted) / max(1, len(resisted)),
        "probes_a_row": probes / len(texts),
        "prompts_that_show_commands": sum(
            any(each in commands for each in shown) for _, shown in asked
        ),
        "prompts_that_show_obeyed": sum(
            any(each in commands and model.obeys(each, False) for each in shown)
            for _, shown in asked
        ),
        "prompts_with_shots": sum(bool(shown) for _, shown in asked),
    }


def tabulate(report: list[dict[str, Any]]) -> str:
    kinds = sorted(report[0]["recall_by_kind"])
    lines = [
        f"| task | model | probe | {' | '.join(kinds)} | all | harmless turned away "
        f"| probes a row | prompts that show a command | one that is obeyed |",
        "| " + " | ".join(["---"] * (len(kinds) + 8)) + " |",
    ]
    for row in report:
        shares = [f"{row['recall_by_kind'].get(kind, float('nan')):.2f}" for kind in kinds]
        lines.append(
            f"| {row['task']} | {row['model']} | {row['probe']} | {' | '.join(shares)} | "
            f"{row['recall']:.2f} of {row['obeyed']} | {row['harmless_turned_away']:.3f} of "
            f"{row['harmless']} | {row['probes_a_row']:.2f} | "
            f"{row['prompts_that_show_commands']} of {row['prompts_with_shots']} | "
            f"{row['prompts_that_show_obeyed']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=["building", "held_out"], default="building")
    parser.add_argument("--task", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--probe", choices=["off", "suspects", "all"], action="append")
    parser.add_argument("--model", choices=[*MODELS], action="append")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/injection"), metavar="PREFIX"
    )
    arguments = parser.parse_args()
    path = CORPUS / f"{arguments.half}.jsonl"
    half = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tasks = make_reviews((HARMLESS + 1) * len(half))
    for file in arguments.task:
        given = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        pairs = {row["input"].strip(): row["output"] for row in given}
        tasks[file.stem] = [*pairs.items()]
    report = []
    for task, rows in tasks.items():
        for model in arguments.model or MODELS:
            for probe in arguments.probe or ("off", "suspects", "all"):
                found = measure(rows, half, MODELS[model], probe)
                report.append({"task": task, "model": model, "probe": probe, **found})
                print(tabulate(report).splitlines()[-1], flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(tabulate(report))


if __name__ == "__main__":
    main()
