"""Bytes of every table of a run for one example, and what they come to for a large pool.

    python benchmarks/footprint.py [--rows 1e9] [--gpus 64] [--pool FILE --input COLUMN]
    [--tokens 64] [--dimensions 384]

The bytes are measured: a pool is read, its tables are written as a run writes them, and their files
are weighed. The seconds are arithmetic: bytes and work divided by the speeds below, which are
assumptions about the machines and can be set. Without `--pool` it takes the demo's abstracts.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROWS = 20_000  # of which the bytes of one are the mean


@dataclass(frozen=True)
class Speeds:
    """What one GPU, one of its CPU cores, and the storage are taken to do in a second."""

    cores: float = 12  # CPU cores for each GPU
    read: float = 2_500  # rows that a core reads, fills, hashes and signs
    encode: float = 4_000  # texts that a GPU embeds, tokenisation on its cores included
    prefill: float = 50_000  # prompt tokens of a model of a billion parameters on a GPU
    decode: float = 10_000  # output tokens of the same model, many requests together
    store: float = 500e6  # bytes between a GPU's node and the object store, per GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--pool", default="package://aclsum/dataset/train.jsonl")
    parser.add_argument("--input", default="sentences.abstract")
    parser.add_argument("--tokens", type=int, default=64, help="of one answer of the model")
    parser.add_argument("--dimensions", type=int, default=384, help="of one embedding")
    for speed in fields(Speeds):
        parser.add_argument(f"--{speed.name}", type=float, default=speed.default)
    arguments = vars(parser.parse_args())
    speeds = Speeds(**{speed.name: arguments[speed.name] for speed in fields(Speeds)})
    with tempfile.TemporaryDirectory() as folder:
        bytes_of, prompt = weigh(
            Path(folder),
            arguments["pool"],
            arguments["input"],
            arguments["tokens"],
            arguments["dimensions"],
        )
    print_bytes(bytes_of, arguments["rows"])
    print_seconds(bytes_of, prompt, speeds, arguments)


def weigh(
    folder: Path, pool: str, column: str, tokens: int, dimensions: int
) -> tuple[dict[str, float], float]:
    """Return the bytes of one example in each place, and the tokens of its prompt."""
    from atgen_ray.config import DataConfig, PromptConfig
    from atgen_ray.core.records import FEATURES_SCHEMA
    from atgen_ray.data import build_split
    from atgen_ray.data.duplicates import PERMUTATIONS
    from atgen_ray.data.in_process import reading_in_process
    from atgen_ray.embedding.pool import EMBEDDING_SCHEMA
    from atgen_ray.store.run_folder import RunFolder

    with reading_in_process():
        data = DataConfig(pool=pool, input=column)
        found = build_split(data, PromptConfig(template="{{ input }}"), "pool", seed=0).examples
    texts = found["text"].to_pylist()
    # A small pool does for many rows: with its words in other orders, as a repeated text would
    # compress to nothing. Ids are drawn.
    drawn = np.random.default_rng(0)
    words = [text.split() for text in texts]
    shuffled = [" ".join(drawn.permutation(words[row % len(words)])) for row in range(ROWS)]
    examples = pa.table(
        {
            "id": draw_hashes(drawn, 12),
            "row": np.arange(ROWS),
            "text": shuffled,
            "content": draw_hashes(drawn, 16),
            "duplicate_of": pa.nulls(ROWS, pa.string()),
        }
    )
    features = make_features(drawn, examples["id"], tokens).cast(FEATURES_SCHEMA)
    vectors = drawn.normal(size=(ROWS, dimensions)).astype(np.float32)
    embeddings = pa.table({"content": examples["content"], "embedding": [*vectors]})
    run = RunFolder(str(folder), "footprint")
    tables = {
        "pool.parquet": examples,
        "embeddings": embeddings.cast(EMBEDDING_SCHEMA),
        "features.parquet, greedy outputs": features.drop_columns(["samples"]),
    }
    size = {
        "text, as it comes": sum(len(text.encode()) for text in texts) / len(texts),
    }
    for name, table in tables.items():
        path = f"{name.partition(',')[0].partition('.')[0]}.parquet"
        run.write_table(path, table)
        size[name] = Path(run.path(path)).stat().st_size / ROWS
    filled = examples.select(["row", "text"]).nbytes / ROWS
    size["filled row and signature, in the object store"] = filled + 4 * PERMUTATIONS
    size["id of a candidate, in the controller"] = examples["id"].nbytes / ROWS
    size["content hash, in the worker that embeds"] = examples["content"].nbytes / ROWS
    size["vector, in the worker that selects"] = 4 * dimensions
    return size, size["text, as it comes"] / 4


def draw_hashes(drawn: np.random.Generator, size: int) -> list[str]:
    """Return a random hash of `size` bytes for every row, in hexadecimal."""
    return [drawn.bytes(size).hex() for _ in range(ROWS)]


def make_features(drawn: np.random.Generator, ids: pa.ChunkedArray, tokens: int) -> pa.Table:
    """Return outputs of `tokens` tokens, drawn at random."""

    def lists(make: Callable[[], npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
        return [make() for _ in range(ROWS)]

    words = [f"{number:x}" for number in range(5_000)]
    return pa.table(
        {
            "id": ids,
            "prompt_tokens": drawn.integers(20, 200, ROWS).astype(np.int32),
            "text": [" ".join(drawn.choice(words, tokens)) for _ in range(ROWS)],
            "token_ids": lists(lambda: drawn.integers(0, 50_000, tokens).astype(np.int32)),
            "logprobs": lists(lambda: -drawn.exponential(size=tokens).astype(np.float32)),
            "entropies": lists(lambda: drawn.exponential(size=tokens).astype(np.float32)),
            "top_logprobs": [
                [*-drawn.exponential(size=(tokens, 2)).astype(np.float32)] for _ in range(ROWS)
            ],
            "finish_reason": ["stop"] * ROWS,
            "samples": pa.nulls(ROWS),
            "error": pa.nulls(ROWS, pa.string()),
        }
    )


def print_bytes(size: dict[str, float], rows: float) -> None:
    print(f"| what and where | bytes of an example | {rows:,.0f} examples |\n| --- | --- | --- |")
    for name, each in size.items():
        print(f"| {name} | {each:,.0f} | {each * rows / 1e9:,.0f} GB |")


def print_seconds(
    size: dict[str, float], prompt: float, speeds: Speeds, arguments: dict[str, float]
) -> None:
    rows = arguments["rows"]
    gpus = arguments["gpus"]
    answer = prompt / speeds.prefill + arguments["tokens"] / speeds.decode
    moved = gpus * speeds.store
    steps = {
        "read, fill, hash, sign": rows / (gpus * speeds.cores * speeds.read),
        "write the pool": rows * size["pool.parquet"] / moved,
        "embed": rows / (gpus * speeds.encode),
        "write embeddings": rows * size["embeddings"] / moved,
        "one pass of the model over all": rows * answer / gpus,
        "one pass over a shortlist of a million": min(rows, 1e6) * answer / gpus,
    }
    print(f"\n| step, on {gpus} GPUs | hours |\n| --- | --- |")
    for name, seconds in steps.items():
        digits = max(0, 1 - math.floor(math.log10(seconds / 3600)))
        print(f"| {name} | {seconds / 3600:.{digits}f} |")


if __name__ == "__main__":
    main()
