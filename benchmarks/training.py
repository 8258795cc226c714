"""What fine-tuning costs: tokens a second against a plain loop, memory of each method, and two
workers against one.

    python benchmarks/training.py --output benchmarks/results/training [--only
    speed|memory|workers|metrics]

The plain loop is transformers' Trainer with peft and padded batches, as their documentation has it.
Both sides train the same adapter for one epoch on the same examples of mixed lengths, in turn, so
that other work on the machine meets both alike. Tokens are those of the examples; padding counts
for neither. Beside that, metrics are compared with the packages that define them. Writes
PREFIX.json and PREFIX.md.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from metric_references import compare_metrics

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.config.loading import load_config
from atgen_ray.core.locations import locate
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import count_threads, worker_environment
from atgen_ray.training import TrainingExample, train_adapter
from atgen_ray.training.batching import build_row
from atgen_ray.training.fine_tune import fine_tune
from atgen_ray.training.methods import check_method, load_trainable
from atgen_ray.training.schedule import schedule_steps

BATCH = 8
MEMORY_CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, padded": {"packing": False},
    "lora, gradient checkpointing": {"gradient_checkpointing": True},
    "rslora": {"method": "rslora"},
    "dora": {"method": "dora"},
    "qlora": {"method": "qlora"},
    "full": {"method": "full"},
}
Row = dict[str, list[int]]
Result = dict[str, Any]


def make_examples(count: int, shortest: int = 8, longest: int = 300) -> list[TrainingExample]:
    """The demo's papers, cut to between `shortest` and `longest` words, evenly on a logarithmic
    scale.
    """
    draw = np.random.default_rng(0)
    lines = (
        Path(locate("package://aclsum/dataset/train.jsonl", "data.pool")).read_text().splitlines()
    )
    examples = []
    for index in range(count):
        paper = json.loads(lines[index % len(lines)])
        words = " ".join(
            [*paper["sentences"]["abstract"], *paper["sentences"]["introduction"]]
        ).split()
        kept = round(shortest * (longest / shortest) ** draw.random())
        examples.append(
            TrainingExample(f"e{index:04d}", " ".join(words[:kept]), paper["summary"]["outcome"])
        )
    return examples


def choose_model() -> ModelConfig:
    return load_config("demo").model.model_copy(
        update={"max_prompt_tokens": 512, "max_new_tokens": 64}
    )


def build_rows(examples: list[TrainingExample], model: ModelConfig) -> list[Row]:
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), model.max_prompt_tokens)
    return [build_row(builder, one.text, one.answer, model.max_new_tokens) for one in examples]


def measure_speed(repeats: int = 2, count: int = 64) -> Result:
    """Tokens a second of both loops, the first step of each left out."""
    examples, model, threads = make_examples(count), choose_model(), count_threads(1, None)
    training = TrainingConfig(epochs=1, batch_size=BATCH)
    rows = build_rows(examples, model)
    lengths = [len(row["input_ids"]) for row in rows]
    speeds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(repeats):
        for name, tune in (("plain", tune_plain), ("ours", tune_ours)):
            times, tokens = tune(examples, rows, model, training, threads)
            speeds[name].append(sum(tokens[1:]) / (times[-1] - times[0]))
            print(name, f"{speeds[name][-1]:.0f} tokens/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "lengths": {
            "shortest": min(lengths),
            "mean": statistics.mean(lengths),
            "longest": max(lengths),
        },
        "tokens_per_second": speeds,
        "ratio": medians["ours"] / medians["plain"],
    }


def tune_ours(
    examples: list[TrainingExample],
    rows: list[Row],
    model: ModelConfig,
    training: TrainingConfig,
    threads: int,
) -> tuple[list[float], list[int]]:
    """When every step ended, and its tokens."""
    times: list[float] = []
    steps = schedule_steps(
        [len(row["input_ids"]) for row in rows], training.batch_size, training.epochs, 0
    )
    tokens = [
        sum(len(rows[index]["input_ids"]) for micro in step[0] for index in micro) for step in steps
    ]
    with tempfile.TemporaryDirectory() as folder:
        examples_ = [asdict(one) for one in examples]
        stamp = lambda done, total: times.append(time.perf_counter())  # noqa: E731
        fine_tune(
            examples_, model, PromptConfig(), training, 0, threads, stamp, None, 1, Path(folder)
        )
    return times, tokens


def tune_plain(
    examples: list[TrainingExample],
    rows: list[Row],
    model: ModelConfig,
    training: TrainingConfig,
    threads: int,
) -> tuple[list[float], list[int]]:
    """As `tune_ours`, by a Trainer that is given nothing but the rows and a padding collator."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(threads)
    times, tokens = list[float](), list[int]()
    pad = DataCollatorForSeq2Seq(load_tokenizer(model), padding=True)

    def collate(batch: list[Row]) -> Any:
        tokens.append(sum(len(row["input_ids"]) for row in batch))
        return pad(batch)

    class Stamp(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=training.epochs,
            per_device_train_batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        network = load_trainable(model, training, None, 0)
        Trainer(
            network, arguments, data_collator=collate, train_dataset=rows, callbacks=[Stamp()]
        ).train()
    return times, tokens


def measure_memory() -> Result:
    """Peak memory of two steps with each method, in a process of its own."""
    found: Result = {}
    for name in MEMORY_CASES:
        done = subprocess.run(
            [sys.executable, __file__, "--child", name], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    return found


def measure_child(name: str) -> Result:
    """Peak memory in MiB and trained weights of one case of MEMORY_CASES; or why it cannot be run
    here.
    """
    from safetensors import safe_open

    from atgen_ray.core.errors import UserError

    training = TrainingConfig(epochs=2, batch_size=BATCH, **MEMORY_CASES[name])
    try:
        check_method(training, torch.cuda.is_available())
    except UserError as mistake:
        return {"missing": str(mistake)}
    examples, model = make_examples(BATCH, 100, 300), choose_model()
    with tempfile.TemporaryDirectory() as folder:
        rows = [asdict(one) for one in examples]
        threads = count_threads(1, None)
        fine_tune(
            rows,
            model,
            PromptConfig(),
            training,
            0,
            threads,
            lambda *_: None,
            None,
            1,
            Path(folder),
        )
        weights = 0
        for path in Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no dict
                    weights += int(np.prod(tensors.get_slice(key).get_shape()))
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else process_peak()
    return {"peak_mib": round(peak), "weights": weights}


def process_peak() -> float:
    """Largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_workers(count: int = 48) -> Result:
    """Seconds a step with one worker and with two, each on one thread."""
    import ray

    examples, model = make_examples(count), choose_model()
    environment = {"env_vars": worker_environment(1)}
    ray.init(
        address="local",
        runtime_env=environment,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
    )
    seconds: dict[str, float] = {}
    for workers in (1, 2):
        training = TrainingConfig(epochs=1, batch_size=BATCH, workers=workers, threads_per_worker=1)
        with tempfile.TemporaryDirectory() as folder:
            (output := Path(folder, "out")).mkdir()
            stamps = Path(folder, "stamps")
            progress = partial(note_time, stamps)
            train_adapter(
                examples, model, PromptConfig(), training, 0, output, f"{folder}/work", progress
            )
            times = [float(line) for line in stamps.read_text().split()]
        seconds[str(workers)] = (times[-1] - times[0]) / (len(times) - 1)
        print(workers, f"workers: {seconds[str(workers)]:.2f} s a step", flush=True)
    ray.shutdown()
    return {"seconds_per_step": seconds, "efficiency": seconds["1"] / seconds["2"] / 2}


def note_time(path: Path, done: int, total: int) -> None:
    with path.open("a") as file:
        file.write(f"{time.time()}\n")


def write_tables(results: Result) -> str:
    lines: list[str] = []
    if speed := results.get("speed"):
        rows = [
            [
                name,
                f"{statistics.median(values):.0f}",
                ", ".join(f"{value:.0f}" for value in values),
            ]
            for name, values in speed["tokens_per_second"].items()
        ]
        lines += [
            *table(["loop", "tokens/s (median)", "each run"], rows),
            f"\nRatio {speed['ratio']:.2f}.\n",
        ]
    if memory := results.get("memory"):
        rows = [
            [name, row.get("missing", ""), ""]
            if "missing" in row
            else [name, row["peak_mib"], f"{row['weights']:,}"]
            for name, row in memory.items()
        ]
        lines += [*table(["method", "peak memory (MiB)", "weights saved"], rows), ""]
    if workers := results.get("workers"):
        rows = [[count, f"{value:.2f}"] for count, value in workers["seconds_per_step"].items()]
        lines += [
            *table(["workers", "seconds a step"], rows),
            f"\nEfficiency {workers['efficiency']:.2f}.\n",
        ]
    if metrics := results.get("metrics"):
        heads = [
            "metric",
            "reference",
            "examples",
            "ours (mean)",
            "reference (mean)",
            "largest difference",
        ]
        rows = [
            [
                *(row[key] for key in ("metric", "reference", "count")),
                *(f"{row[key]:.4f}" for key in ("ours", "theirs")),
                f"{row['difference']:.1e}",
            ]
            for row in metrics
        ]
        lines += table(heads, rows)
    return "\n".join(lines) + "\n"


def table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


PARTS: dict[str, Callable[[], Any]] = {
    "speed": measure_speed,
    "memory": measure_memory,
    "workers": measure_workers,
    "metrics": compare_metrics,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/training"), metavar="PREFIX"
    )
    parser.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        help="measure this part; the others stay as they are",
    )
    parser.add_argument("--child", choices=MEMORY_CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_child(arguments.child)))
        return
    path = arguments.output.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if arguments.only and path.is_file() else {}
    for part in arguments.only or PARTS:
        results[part] = PARTS[part]()
        path.write_text(json.dumps(results, indent=2) + "\n")
    tables = write_tables(results)
    path.with_suffix(".md").write_text(tables)
    print(tables)


if __name__ == "__main__":
    main()
