"""Every preset whose data is at hand, for one round: does it read, prompt, train and score?

    python benchmarks/presets.py --data FOLDER --output benchmarks/results/presets

FOLDER holds the files of the datasets' own repositories, a folder for each: those found are brought
into the shape of the hub's rows, which the presets name. The demo's small model stands in for the
presets' own, with few rows and short answers: the numbers show that the task works, not how well it
can be learnt. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from atgen_ray.config.loading import load_config
from atgen_ray.data.sources import parse_split

Rows = Iterable[dict[str, Any]]
Splits = tuple[Rows, Rows]  # pool and test
READ = 400  # rows of a split


def read_lines(path: Path) -> Iterator[Any]:
    with path.open() as lines:
        yield from map(json.loads, lines)


def read_gsm8k(folder: Path) -> Splits:
    return read_lines(folder / "train.jsonl"), read_lines(folder / "test.jsonl")


def read_nq_open(folder: Path) -> Splits:
    return read_lines(folder / "NQ-open.dev.jsonl"), read_lines(
        folder / "NQ-open.efficientqa.dev.1.1.jsonl"
    )


def read_scitldr(folder: Path) -> Splits:
    return read_lines(folder / "SciTLDR-A/train.jsonl"), read_lines(folder / "SciTLDR-A/test.jsonl")


def read_triviaqa(folder: Path) -> Splits:
    def shape(question: str, answers: list[str]) -> dict[str, Any]:
        return {"question": question, "answer": {"value": answers[0], "aliases": answers}}

    pool = [
        shape(
            row["context"].removeprefix("Question: ").removesuffix("\nAnswer:"),
            [row["answer"], *row["aliases"]],
        )
        for row in read_lines(folder / "triviaqa_sm_sub.jsonl")
    ]
    known = {row["question"].casefold().strip() for row in pool}
    test = (
        shape(row["question"].strip('"'), row["golden_answers"])
        for row in read_lines(folder / "test.jsonl")
    )
    return pool, (row for row in test if row["question"].casefold().strip() not in known)


def read_e2e(folder: Path) -> Splits:
    def read(name: str) -> Rows:
        with (folder / name).open(newline="") as file:
            for row in csv.DictReader(file):
                yield {"meaning_representation": row["mr"], "human_reference": row["ref"]}

    return read("devset.csv"), read("testset_w_refs.csv")


def read_commongen(folder: Path) -> Splits:
    def read(split: str) -> Rows:
        start = f"{folder}/commongen/commongen.{split}"
        with (
            Path(f"{start}.src_alpha.txt").open() as sources,
            Path(f"{start}.tgt.txt").open() as targets,
        ):
            for source, target in zip(sources, targets, strict=True):
                yield {"concepts": source.split(), "target": target.strip()}

    return read("train"), read("dev")


def read_multi30k(folder: Path) -> Splits:
    def read(split: str) -> Rows:
        english, german = folder / f"{split}.en.gz", folder / f"{split}.de.gz"
        with gzip.open(english, "rt") as sources, gzip.open(german, "rt") as targets:
            for en, de in zip(sources, targets, strict=True):
                yield {"en": en.strip(), "de": de.strip()}

    return read("train"), read("test_2016_flickr")


def read_aeslc(folder: Path) -> Splits:
    found: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    with tarfile.open(folder / "enron_subject_line.tar.gz") as archive:
        for member in archive:
            rows = found.get(Path(member.name).parent.name)
            if rows is None or len(rows) >= READ or not member.name.endswith(".subject"):
                continue
            file = archive.extractfile(member)
            body, _, rest = (
                (file.read() if file else b"").decode("utf-8", "replace").partition("@subject")
            )
            rows.append(
                {"email_body": body.strip(), "subject_line": rest.partition("@ann")[0].strip()}
            )
    return found["train"], found["test"]


# Preset: folder of its data, and what brings it into the hub's shape.
READERS: dict[str, tuple[str, Callable[[Path], Splits]]] = {
    "gsm8k": ("gsm8k", read_gsm8k),
    "trivia_qa": ("triviaqa", read_triviaqa),
    "nq_open": ("nq_open", read_nq_open),
    "scitldr": ("scitldr", read_scitldr),
    "aeslc": ("aeslc", read_aeslc),
    "e2e": ("e2e", read_e2e),
    "commongen": ("commongen", read_commongen),
    "multi30k": ("multi30k", read_multi30k),
}


def run_preset(name: str, data: Path, storage: Path, settings: list[str]) -> dict[str, Any]:
    """One round of the preset on the first rows of its data; metrics before and after."""
    folder, read = READERS[name]
    shaped = storage / "data" / name
    shaped.mkdir(parents=True)
    config = load_config(name)
    for split, rows in zip(
        (config.data.pool_split, config.data.test_split), read(data / folder), strict=True
    ):
        lines = "".join(json.dumps(row) + "\n" for row in islice(rows, READ))
        (shaped / f"{parse_split(split, 'data')[0]}.jsonl").write_text(lines)
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "atgen_ray.cli",
        "run",
        name,
        f"data.path={shaped}",
        "--storage",
        str(storage),
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    rows = json.loads((storage / "runs" / config.name / "metrics.json").read_text())
    means = [{metric: value["mean"] for metric, value in row["metrics"].items()} for row in rows]
    return {"seconds": time.perf_counter() - started, "untuned": means[0], "tuned": means[-1]}


def write_table(results: dict[str, dict[str, Any]]) -> str:
    lines = ["| preset | metrics: untuned, after one round | seconds |", "| --- | --- | --- |"]
    for name, row in results.items():
        pairs = [
            f"{metric} {row['untuned'][metric]:.3g}, {row['tuned'][metric]:.3g}"
            for metric in row["tuned"]
        ]
        lines.append(f"| {name} | {'; '.join(pairs)} | {row['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/presets"), metavar="PREFIX"
    )
    parser.add_argument("--only", choices=READERS, action="append")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="more settings, as training.epochs=1"
    )
    arguments = parser.parse_args()
    demo = load_config("demo")
    small = [
        f"model.id={demo.model.id}",
        f"embedding.model={demo.embedding.model}",
        "model.max_new_tokens=32",
    ]
    small += [
        "model.max_prompt_tokens=192",
        "engine.backend=transformers",
        "data.limit=100",
        "data.test_limit=16",
    ]
    small += [
        "selection.candidates=16",
        "selection.count=8",
        "stopping.rounds=1",
        "training.epochs=2",
    ]
    results: dict[str, dict[str, Any]] = {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as storage:
        for name in arguments.only or READERS:
            if (arguments.data / READERS[name][0]).is_dir():
                results[name] = run_preset(
                    name, arguments.data, Path(storage), [*small, *arguments.settings]
                )
                print(name, results[name], flush=True)
                arguments.output.with_suffix(".json").write_text(
                    json.dumps(results, indent=2) + "\n"
                )
                arguments.output.with_suffix(".md").write_text(write_table(results))
    print(write_table(results))


if __name__ == "__main__":
    main()
