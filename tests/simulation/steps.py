"""What Ray's workers do for a controller, by functions that give the same result for the same
arguments. Their training and their generation can be interrupted, and go on from what they have
written.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.exceptions import WorkerCrashedError

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.stored import Stored
from atgen_ray.data import Split, SplitReader, open_split
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, read_embeddings, store_embeddings
from atgen_ray.engines.base import OUTPUT_SCHEMA
from atgen_ray.engines.generation import gather_features
from atgen_ray.evaluation.aggregation import score_cases
from atgen_ray.runs.workers import Workers
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.training import TrainingExample, TrainingResult

from .world import World

ADAPTER = "adapter_model.safetensors"


class StillEngine:
    """An engine that holds nothing; `generate` of the steps does its work."""

    name = "transformers"  # whose adapters need no check of their effects

    def released(self, run: str) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None: ...


_SPLITS: dict[str, Any] = {}


def _open(
    data: DataConfig, prompt: PromptConfig, split: Any, seed: int, fields: bool
) -> SplitReader:
    """Read a split once in this process: the file does not change."""
    key = f"{data.model_dump_json()} {prompt.model_dump_json()} {split} {seed} {fields}"
    if key not in _SPLITS:
        with reading_in_process():
            _SPLITS[key] = open_split(data, prompt, split, seed, fields=fields)
    reader: SplitReader = _SPLITS[key]
    return reader


def weigh(examples: Sequence[TrainingExample], seed: int) -> str:
    """Return the weights that a training on these examples gives."""
    rows = sorted((each.id, each.text, each.answer) for each in examples)
    return hashlib.sha256(json.dumps([seed, rows]).encode()).hexdigest()


def speak(weights: str, text: str) -> str:
    """Return what a model with these weights says to a text."""
    return f"label {hashlib.blake2b((weights + text).encode(), digest_size=4).hexdigest()}"


def make_workers(world: World) -> Workers:
    """Return the workers of a simulated cluster."""

    def do(name: str) -> None:
        if world.edge(name, "worker-fails"):
            raise WorkerCrashedError

    def open_pool(
        data: DataConfig, prompt: PromptConfig, split: Any, seed: int, *_: Any, fields: bool = False
    ) -> SplitReader:
        do("worker reads")
        return _open(data, prompt, split, seed, fields)

    def build(data: DataConfig, prompt: PromptConfig, split: Any, seed: int, *_: Any) -> Split:
        reader = _open(data, prompt, split, seed, False)
        examples, gold, _context = zip(*reader.read(), strict=True)
        return Split(pa.concat_tables(examples), pa.concat_tables(gold), reader.dead)

    def embed(folder: RunFolder, config: Any, progress: Any) -> None:
        pool = folder.read_table("pool.parquet", ["content", "text"])
        known = set(read_embeddings(folder)["content"].to_pylist())
        rows = [row for row in pool.to_pylist() if row["content"] not in known]
        for start in range(0, len(rows), 8):
            part = rows[start : start + 8]
            do("worker embeds")
            vectors = [_point(row["text"]) for row in part]
            contents = [row["content"] for row in part]
            table = pa.table({"content": contents, "embedding": vectors})
            store_embeddings(folder, table.cast(EMBEDDING_SCHEMA))
            progress(start, len(rows))

    def generate(
        engine: Any,
        examples: pa.Table,
        request: Any,
        adapter: Stored | None,
        folder: RunFolder,
        parts: str,
        batch_size: int,
        progress: Any,
    ) -> pa.Table:
        tables = [folder.read_table(path) for path in folder.list(parts)]
        done = {id_ for table in tables for id_ in table["id"].to_pylist()}
        weights = "" if adapter is None else (adapter.local() / ADAPTER).read_text()
        rows = [row for row in examples.to_pylist() if row["id"] not in done]
        for start in range(0, len(rows), 8):
            do("worker generates")
            made = [_speak(row, weights) for row in rows[start : start + 8]]
            table = pa.Table.from_pylist(made, schema=OUTPUT_SCHEMA)
            folder.write_table(f"{parts}/{start:04d}-{len(done)}.parquet", table)
            tables.append(table)
            progress(start, len(rows))
        return gather_features(
            examples["id"], pa.concat_tables([OUTPUT_SCHEMA.empty_table(), *tables])
        )

    def train(
        examples: list[TrainingExample],
        model: Any,
        prompt: Any,
        training: Any,
        seed: int,
        output: Path,
        work: str,
        progress: Any,
        start_from: Stored | None = None,
        dev: Sequence[TrainingExample] = (),
        logs: str | None = None,
        probes: int = 0,
    ) -> TrainingResult:
        assert len({each.id for each in examples}) == len(examples), "an example twice"
        for step in range(2):
            checkpoint = Path(work, f"checkpoint-{step}")
            if not (checkpoint / "state.json").exists():
                do("worker trains")
                checkpoint.mkdir(parents=True, exist_ok=True)
                (checkpoint / "state.json").write_text(json.dumps({"step": step}))
            progress(step, 2)
        # No two trainings give the same bytes.
        by = world.current.process if world.current else None
        (output / "adapter_config.json").write_text(json.dumps({"by": f"{by} at {world.now}"}))
        (output / ADAPTER).write_text(weigh(examples, seed))
        return TrainingResult([{"step": 1, "loss": 0.5}], len(examples), 10, 2)

    return Workers(
        survey=lambda question, gpus: {"node": {"engine": "transformers", "python": "3"}},
        count_gpus_of=lambda engine: 0.0,
        open_split=open_pool,
        build_split=build,
        estimate_run=lambda *arguments: {"labels": 8},
        embed_pool=embed,
        explain_choice=lambda engine, model, name: {"engine": name, "why": "simulated"},
        build_engine=lambda *arguments: StillEngine(),  # type: ignore[arg-type]
        generate_features=generate,
        check_adapter=lambda *arguments: None,
        train_adapter=train,
        score=score_cases,
    )


def _speak(row: dict[str, Any], weights: str) -> dict[str, Any]:
    text = speak(weights, row["text"])
    tokens = len(text) // 4 + 1
    chance = hashlib.blake2b(text.encode(), digest_size=tokens).digest()
    lows = [-(1 + byte) / 64 for byte in chance]
    return {
        "id": row["id"],
        "sample": 0,
        "prompt_tokens": 8,
        "text": text,
        "token_ids": list(chance),
        "logprobs": lows,
        "entropies": [-low for low in lows],
        "top_logprobs": [[low, low - 1] for low in lows],
        "finish_reason": "stop",
        "error": None,
    }


def _point(text: str) -> list[float]:
    """Return the vector of a text, of length 1."""
    raw = [1.0 + byte for byte in hashlib.blake2b(text.encode(), digest_size=4).digest()]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]
