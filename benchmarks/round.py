"""What Ray costs: the steps of a round through the package, against the same steps called in one
plain process; and how long vLLM stands idle between a training and the first answer.

    python benchmarks/round.py --output benchmarks/results/round

The second table compares a kept engine, which exchanges its adapter, with what ATGen does after
every training: it merges the adapter, writes the whole model to disk and starts vLLM on it.

Both sides load the same model and do the same arithmetic on the demo's papers. The plain side
imports everything beforehand, so Ray's side alone pays for starting its workers: what is shown is
the whole price of isolation, restarts and distribution at the smallest size, where it weighs most.
Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyarrow as pa
import ray
import torch

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import load_config
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored, at_path
from atgen_ray.data import build_split
from atgen_ray.embedding import EmbeddingSpace, embed_pool
from atgen_ray.embedding.encoder import Encoder
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.transformers_engine import TransformersEngine, TransformersWorker
from atgen_ray.engines.vllm_engine import VLLMEngine
from atgen_ray.models.loading import load_tokenizer, load_unmerged
from atgen_ray.ray_runtime.hardware import count_threads, worker_environment
from atgen_ray.ray_runtime.session import quieten_ray_data
from atgen_ray.ray_runtime.workers import reuse_idle_workers
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.training import TrainingExample, train_adapter
from atgen_ray.training.fine_tune import fine_tune


def quiet(done: int, total: int) -> None: ...


def measure(
    config: RunConfig, pool: pa.Table, answers: dict[str, str], folder: Path
) -> dict[str, dict[str, float]]:
    """Seconds of each step, `plain` and `ray`."""
    threads = count_threads(1, None)
    torch.set_num_threads(threads)
    model, prompt, training = config.model, config.prompt, config.training
    request = GenerationRequest(model.max_new_tokens)
    rows = pool.slice(0, config.engine.batch_size).select(["id", "text"])
    batch = rows.append_column("sample", pa.array([0] * rows.num_rows, pa.int32()))
    learnt = pool.slice(0, 16).to_pylist()
    examples = [TrainingExample(row["id"], row["text"], answers[row["id"]]) for row in learnt]
    run = RunFolder(str(folder), "benchmark")
    run.write_table("pool.parquet", pool)
    for name in ("plain", "ray"):
        (folder / name).mkdir()

    def tune_plain() -> None:
        fine_tune(
            [asdict(e) for e in examples],
            model,
            prompt,
            training,
            0,
            threads,
            quiet,
            None,
            1,
            folder / "plain",
        )

    def tune_on_ray() -> None:
        train_adapter(
            examples, model, prompt, training, 0, folder / "ray", str(folder / "work"), quiet
        )

    def generate_on_ray() -> None:
        engine = TransformersEngine(model, prompt, config.engine)
        generate_features(
            engine, rows, request, None, run, "parts", config.engine.batch_size, quiet
        )

    steps: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "embedding": (
            lambda: Encoder(config.embedding, threads)(pool),
            lambda: embed_pool(run, EmbeddingSpace.of(config), quiet),
        ),
        "generation": (
            lambda: TransformersWorker(model, prompt, request, None, config.engine)(batch),
            generate_on_ray,
        ),
        "training": (tune_plain, tune_on_ray),
    }
    seconds: dict[str, dict[str, float]] = {}
    for step, sides in steps.items():
        seconds[step] = {
            name: clock(side) for name, side in zip(("plain", "ray"), sides, strict=True)
        }
        print(step, seconds[step], flush=True)
    return seconds


def measure_idle(
    config: RunConfig, pool: pa.Table, adapter: Path, folder: Path
) -> dict[str, float]:
    """Seconds from a finished adapter to the first answer of vLLM, `restarted` and `kept`."""
    model = config.model
    engine = config.engine.model_copy(update={"backend": "vllm"})
    first = pool.slice(0, 1).select(["id", "text"])

    def answer(with_engine: VLLMEngine, name: str, tuned: Stored | None) -> float:
        run = RunFolder(str(folder), name)
        request = GenerationRequest(1)
        return clock(
            lambda: generate_features(with_engine, first, request, tuned, run, "parts", 1, quiet)
        )

    def merge() -> None:
        merged = load_unmerged(model, adapter).merge_and_unload()
        merged.save_pretrained(folder / "merged")
        load_tokenizer(model).save_pretrained(folder / "merged")

    merging = clock(merge)
    whole = model.model_copy(update={"id": str(folder / "merged"), "dtype": "float32"})
    with closing(VLLMEngine(whole, config.prompt, engine)) as started:
        restarted = merging + answer(started, "restarted", None)
    with closing(VLLMEngine(model, config.prompt, engine)) as kept:
        # The adapter of the round before.
        answer(kept, "before", at_path(adapter))
        copy = at_path(Path(shutil.copytree(adapter, folder / "next")))
        return {"restarted": round(restarted, 2), "kept": answer(kept, "kept", copy)}


def clock(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, 2)


def write_results(seconds: dict[str, dict[str, float]], prefix: Path) -> None:
    from matplotlib.figure import Figure

    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(seconds, indent=2) + "\n")
    lines = [
        "| step | plain (s) | through Ray (s) | more (s) | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step, row in seconds.items():
        more, ratio = row["ray"] - row["plain"], row["ray"] / row["plain"]
        lines.append(
            f"| {step} | {row['plain']:.1f} | {row['ray']:.1f} | {more:.1f} | {ratio:.2f} |"
        )
    table = "\n".join(lines) + "\n"
    prefix.with_suffix(".md").write_text(table)
    print(table)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for offset, name in ((-0.2, "plain"), (0.2, "ray")):
        axes.bar(
            [i + offset for i in range(len(seconds))],
            [row[name] for row in seconds.values()],
            0.4,
            label=name,
        )
    axes.set_xticks(range(len(seconds)), list(seconds))
    axes.set_ylabel("seconds")
    axes.legend()
    figure.savefig(prefix.with_suffix(".png"), dpi=120)


def write_idle(idle: dict[str, float], prefix: Path) -> None:
    table = (
        "| from a finished adapter to vLLM's first answer | s |\n| --- | --- |\n"
        f"| merged to disk, vLLM started | {idle['restarted']:.1f} |\n"
        f"| kept engine, adapter exchanged | {idle['kept']:.1f} |\n"
        f"| ratio | {idle['restarted'] / idle['kept']:.1f} |\n"
    )
    with prefix.with_suffix(".md").open("a") as file:
        file.write("\n" + table)
    prefix.with_name(f"{prefix.name}-idle.json").write_text(json.dumps(idle, indent=2) + "\n")
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/round"), metavar="PREFIX"
    )
    arguments = parser.parse_args()
    config = load_config("demo", ["engine.backend=transformers"])
    environment = {"env_vars": worker_environment(count_threads(1, None))}
    quiet_ray = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    with reuse_idle_workers(), tempfile.TemporaryDirectory() as folder:  # as `atgen-ray run` does
        ray.init(address="local", runtime_env=environment, **quiet_ray)
        quieten_ray_data()
        split = build_split(config.data, config.prompt, "pool", config.seed)
        answers = {row["id"]: row["references"][0] for row in split.gold.to_pylist()}
        write_results(measure(config, split.examples, answers, Path(folder)), arguments.output)
        idle = measure_idle(config, split.examples, Path(folder) / "ray", Path(folder))
        write_idle(idle, arguments.output)


if __name__ == "__main__":
    main()
