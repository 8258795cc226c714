"""Makes the pools and test sets of the suites out of the public datasets' own files.

    python benchmarks/prepare.py SOURCE [--output benchmarks/data]

SOURCE holds a folder for each dataset, with the files of its public repository unchanged: `e2e`
(devset.csv, testset_w_refs.csv; CC BY-SA 4.0), `bigbench_qa_wikidata` (Apache-2.0), `multi30k`
(task1/raw: train and test_2016_flickr in en and de, gzipped; research and education only),
`commongen` (MIT), `triviaqa` (Apache-2.0), `nq_open` (CC BY-SA 3.0), `scitldr` (Apache-2.0),
`aeslc` (CC BY-NC-SA 4.0), `gsm8k` (MIT). Each task becomes OUTPUT/TASK/{pool,test}.jsonl with
`input` and the list `references`; what stands in the test set is left out of the pool. `mixed` is
one pool of eight of them, with prompts to aim at and a test set for each of three. `frames` has
for four of them a pool and the examples that a score is measured on. Nothing of it belongs into
the repository.
"""

import argparse
import csv
import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Examples = dict[str, list[str]]  # references by input
Task = Callable[[Path], tuple[Examples, Examples]]  # pool and test set

LEAST = 60  # rows of a kind of fact in the whole file
HELD = 12  # of them in the test set
_KIND = re.compile(
    r"The (.+?) (?:of|by|in|to|on) "
    r"(?:(citizenship|birth|death|origin|burial|residence|work|formation|performer) )?"
)


def read_e2e(source: Path) -> tuple[Examples, Examples]:
    """Attributes of a restaurant -> a description; the public dev set is the pool."""
    return _read_csv(source / "e2e" / "devset.csv"), _read_csv(
        source / "e2e" / "testset_w_refs.csv"
    )


def read_wikidata(source: Path) -> tuple[Examples, Examples]:
    """The beginning of a fact -> its end; a twentieth of the rows, by hash, is the test set."""
    rows = _read_jsonl(source / "bigbench_qa_wikidata" / "bigbench_qa_wikidata.jsonl")
    facts = {row["context"]: [row["continuation"]] for row in rows}
    test = {
        text: ends
        for text, ends in facts.items()
        if hashlib.blake2b(text.encode()).digest()[0] < 13
    }
    return {text: ends for text, ends in facts.items() if text not in test}, test


def read_relations(source: Path) -> tuple[Examples, Examples]:
    """The beginning of a fact -> its end, as above, of kinds that have 60 rows or more. Twelve rows
    of each kind, by hash, are the test set: its mean is that of the kinds, each of equal weight.
    """
    rows = _read_jsonl(source / "bigbench_qa_wikidata" / "bigbench_qa_wikidata.jsonl")
    facts = {row["context"]: [row["continuation"]] for row in rows}
    kinds: dict[str, list[str]] = {}
    for text in facts:
        kinds.setdefault(name_kind(text), []).append(text)
    kinds = {kind: texts for kind, texts in kinds.items() if len(texts) >= LEAST}
    held = {text for texts in kinds.values() for text in _shuffle(texts)[:HELD]}
    pool = {text: facts[text] for texts in kinds.values() for text in texts if text not in held}
    return pool, {text: facts[text] for text in sorted(held)}


def name_kind(text: str) -> str:
    """The relation that a beginning of a fact asks for."""
    found = _KIND.match(text)
    if found is None:
        return " ".join(text.split()[-3:])  # as in "The Alps are located in"
    return " ".join(filter(None, found.groups()))


def read_commongen(source: Path) -> tuple[Examples, Examples]:
    """Concepts -> a sentence that uses them; the public dev set is the pool, the test set is the
    test set.
    """

    def read(name: str) -> Examples:
        rows = _read_jsonl(source / "commongen" / name)
        return {
            ", ".join(re.sub(r"_\w", "", row["concept_set"]).split("#")): row["scene"]
            for row in rows
        }

    return read("commongen.dev.jsonl"), read("commongen.test.jsonl")


def read_german_to_english(source: Path) -> tuple[Examples, Examples]:
    """A German caption -> English."""
    return _pair(source, "train", "de", "en"), _pair(source, "test_2016_flickr", "de", "en")


def read_english_to_german(source: Path) -> tuple[Examples, Examples]:
    """An English caption -> German."""
    return _pair(source, "train", "en", "de"), _pair(source, "test_2016_flickr", "en", "de")


def read_triviaqa(source: Path) -> tuple[Examples, Examples]:
    """A question -> its answer; 270 test questions stand in the pool and are left out of the test
    set.
    """
    pool = {}
    for row in _read_jsonl(source / "triviaqa" / "triviaqa_sm_sub.jsonl"):
        question = row["context"].removeprefix("Question: ").removesuffix("\nAnswer:").strip()
        pool[question] = list(dict.fromkeys([row["answer"], *row["aliases"]]))
    known = {_normalise(question) for question in pool}
    rows = _read_jsonl(source / "triviaqa" / "test.jsonl")
    return pool, {
        row["question"]: row["golden_answers"]
        for row in rows
        if _normalise(row["question"]) not in known
    }


def read_nq_open(source: Path) -> tuple[Examples, Examples]:
    """A question to a search engine -> short answers; the public dev set is the pool."""

    def read(name: str) -> Examples:
        rows = _read_jsonl(source / "nq_open" / name)
        return {row["question"]: row["answer"] for row in rows}

    return read("NQ-open.dev.jsonl"), read("NQ-open.efficientqa.dev.1.1.jsonl")


def read_scitldr(source: Path) -> tuple[Examples, Examples]:
    """An abstract -> one sentence."""

    def read(name: str) -> Examples:
        rows = _read_jsonl(source / "scitldr" / "SciTLDR-A" / f"{name}.jsonl")
        return {" ".join(row["source"]): row["target"] for row in rows}

    return read("train"), read("test")


def read_aeslc(source: Path) -> tuple[Examples, Examples]:
    """An e-mail -> its subject."""
    found: dict[str, Examples] = {"train": {}, "test": {}}
    with tarfile.open(source / "aeslc" / "enron_subject_line.tar.gz") as archive:
        for member in archive:
            split = member.name.split("/")[1] if member.isfile() else ""
            file = archive.extractfile(member) if split in found else None
            if file is not None:
                mail, _, subject = file.read().decode().partition("@subject")
                subject = subject.partition("@ann0")[0].strip()
                if mail.strip() and subject:
                    found[split].setdefault(mail.strip(), [subject])
    return found["train"], found["test"]


def read_gsm8k(source: Path) -> tuple[Examples, Examples]:
    """A word problem -> its solution, with the number at its end."""

    def read(name: str) -> Examples:
        rows = _read_jsonl(source / "gsm8k" / f"{name}.jsonl")
        return {row["question"]: [row["answer"]] for row in rows}

    return read("train"), read("test")


TASKS: dict[str, Task] = {
    "e2e": read_e2e,
    "wikidata": read_wikidata,
    "relations": read_relations,
    "commongen": read_commongen,
    "german_to_english": read_german_to_english,
    "english_to_german": read_english_to_german,
    "triviaqa": read_triviaqa,
    "nq_open": read_nq_open,
    "scitldr": read_scitldr,
    "aeslc": read_aeslc,
    "gsm8k": read_gsm8k,
}

# What a person would write before each text, as the requests of one company's users differ.
ASKED = {
    "wikidata": "Complete the sentence.",
    "e2e": "Describe the restaurant.",
    "commongen": "Write a sentence with these words.",
    "german_to_english": "Translate into English.",
    "nq_open": "Answer the question.",
    "scitldr": "Summarise the paper in one sentence.",
    "aeslc": "Write a subject for this e-mail.",
    "gsm8k": "Solve the problem.",
}
AIMED = ("commongen", "nq_open", "scitldr")  # a small, a middling and a long one
MOST = 4_000  # rows of one dataset in the mixed pool
PROMPTS = 64  # to aim at; they stand in no test set
TESTED = 400

FRAMED = ("wikidata", "nq_open", "english_to_german", "gsm8k")
FRAME = 3_000  # examples that a score is measured on


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _read_csv(path: Path) -> Examples:
    found: Examples = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["mr"], []).append(row["ref"])
    return found


def _pair(source: Path, split: str, one: str, other: str) -> Examples:
    def read(language: str) -> list[str]:
        text = gzip.decompress(
            (source / "multi30k" / f"{split}.{language}.gz").read_bytes()
        ).decode()
        return [line.strip() for line in text.split("\n") if line.strip()]

    found: Examples = {}
    for text, answer in zip(read(one), read(other), strict=True):
        found.setdefault(text, []).append(answer)
    return found


def _normalise(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def write_split(path: Path, examples: Examples, without: Iterable[str] = ()) -> int:
    left_out = set(without)
    rows = [
        {"input": text, "references": found}
        for text, found in examples.items()
        if text not in left_out
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return len(rows)


def write_mixed(source: Path, folder: Path) -> tuple[int, int]:
    """Write the mixed pool, and `target-NAME.jsonl` and `test-NAME.jsonl` of the datasets to aim
    at; return the sizes of the pool and of all test sets.
    """
    pool: Examples = {}
    tests = 0
    for name, asked in ASKED.items():
        own, test = (
            {f"{asked}\n\n{text}": found for text, found in part.items()}
            for part in TASKS[name](source)
        )
        test = {text: test[text] for text in _shuffle(test)}
        pool |= {text: own[text] for text in _shuffle(set(own) - set(test))[:MOST]}
        if name in AIMED:
            aim = [*test][:PROMPTS]
            rows = "".join(json.dumps({"input": text}, ensure_ascii=False) + "\n" for text in aim)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"target-{name}.jsonl").write_text(rows, encoding="utf-8")
            kept = {text: test[text] for text in [*test][PROMPTS : PROMPTS + TESTED]}
            tests += write_split(folder / f"test-{name}.jsonl", kept)
    return write_split(folder / "pool.jsonl", pool), tests


def write_frames(source: Path, folder: Path) -> tuple[int, int]:
    """Write a pool and a frame of FRAME examples for each dataset of FRAMED: the frame is what a
    score is measured on; return the sizes of all pools and of all frames.
    """
    pools = frames = 0
    for name in FRAMED:
        asked = ASKED.get(name, "Translate into German.")
        examples = TASKS[name](source)[0]
        order = _shuffle(examples)
        parts = {
            "frame": {f"{asked}\n\n{text}": examples[text] for text in order[:FRAME]},
            "pool": {f"{asked}\n\n{text}": examples[text] for text in order[FRAME:]},
        }
        pools += write_split(folder / f"pool-{name}.jsonl", parts["pool"])
        frames += write_split(folder / f"frame-{name}.jsonl", parts["frame"])
    return pools, frames


def _shuffle(texts: Iterable[str]) -> list[str]:
    """Return the texts in an order by hash, the same on every machine."""
    return sorted(texts, key=lambda text: hashlib.blake2b(text.encode()).digest())


SEVERAL = {"mixed": write_mixed, "frames": write_frames}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--only", choices=[*sorted(TASKS), *SEVERAL], action="append")
    arguments = parser.parse_args()
    for name in arguments.only or [*TASKS, *SEVERAL]:
        if name in SEVERAL:
            sizes = SEVERAL[name](arguments.source, arguments.output / name)
            print(f"{name}: pool {sizes[0]}, test {sizes[1]}")
            continue
        pool, test = TASKS[name](arguments.source)
        folder = arguments.output / name
        counts = (
            write_split(folder / "pool.jsonl", pool, test),
            write_split(folder / "test.jsonl", test),
        )
        print(f"{name}: pool {counts[0]}, test {counts[1]}")


if __name__ == "__main__":
    main()
