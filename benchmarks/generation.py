"""Features of a pool through the service's vLLM replicas, against `transformers.generate` in
batches of four.

    python benchmarks/generation.py [--prompts 2000] [--baseline-prompts 200] [--tokens 32]
    [--output PREFIX]

Both sides give greedy text with the log-probability of every token, with the same model on the same
cores. The baseline is how the published system generates: `generate` with scores, four padded
prompts at a time; it is measured on a part of the pool, as its speed does not depend on how many
batches follow. Starting the engines is not counted.

A second measurement is the time from the end of a training to the first scored prompt of the next
round: the replica that stands takes the new adapter, against merging it into a copy of the model on
disk and starting an engine from that in a process that has all its imports done. With the first
adapter a replica imports and loads what it checks adapters with; both that turn and a later one are
given. Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The benchmark beside this one; for mypy `serving` are the tests of that room.
from serving import (  # type: ignore[attr-defined]
    MODEL,
    configure,
    measure_apart,
    start_service,
    write_prompts,
)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BATCH = 4  # of the baseline


def measure_baseline(count: int, tokens: int) -> dict[str, Any]:
    """transformers.generate with scores."""
    import torch

    from atgen_ray.config import ModelConfig, PromptConfig
    from atgen_ray.ray_runtime.hardware import count_threads

    torch.set_num_threads(count_threads(1, None))
    from atgen_ray.models.loading import TUNED_DTYPE, load_model, load_tokenizer
    from atgen_ray.models.prompts import PromptBuilder

    model_config = ModelConfig(id=MODEL, max_prompt_tokens=256, max_new_tokens=tokens)
    model: Any = load_model(model_config, TUNED_DTYPE)  # as the replicas compute
    tokenizer: Any = load_tokenizer(model_config)
    builder = PromptBuilder(tokenizer, PromptConfig(), 256)
    prompts = write_prompts(count)
    total, started = 0, 0.0
    for at in range(-BATCH, len(prompts), BATCH):
        if at == 0:  # the first batch warms up
            total, started = 0, time.perf_counter()
        batch = [builder.encode(prompt) for prompt in prompts[max(at, 0) : max(at, 0) + BATCH]]
        width = max(map(len, batch))
        ids = torch.tensor(
            [[builder.stop_ids[0]] * (width - len(row)) + list(row) for row in batch]
        )
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                eos_token_id=list(builder.stop_ids),
                pad_token_id=builder.stop_ids[0],
            )
        new = found.sequences[:, width:]
        logprobs = (
            torch.stack(found.logits, 1)
            .float()
            .log_softmax(-1)
            .gather(2, new[:, :, None])
            .squeeze(2)
        )
        for row, scores in zip(new.tolist(), logprobs.tolist(), strict=True):
            end = next(
                (i + 1 for i, token in enumerate(row) if token in builder.stop_ids), len(row)
            )
            tokenizer.decode(row[:end])
            total += len(scores[:end])
    return {"seconds": time.perf_counter() - started, "tokens": total}


def measure_replicas(count: int, tokens: int) -> dict[str, Any]:
    """The service with one vLLM replica, fed by Ray Data; and the turn to a new adapter."""
    import pyarrow as pa

    from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
    from atgen_ray.core.records import GenerationRequest
    from atgen_ray.engines.base import TokenRequest
    from atgen_ray.engines.generation import generate_features
    from atgen_ray.engines.serve_engine import ServeEngine, find_model
    from atgen_ray.ray_runtime.session import quieten_ray_data
    from atgen_ray.store.run_folder import RunFolder

    model = ModelConfig(id=MODEL, max_prompt_tokens=256, max_new_tokens=tokens)
    prompts = write_prompts(count)
    storage = tempfile.mkdtemp()
    folder = RunFolder(storage, "benchmark")
    with start_service("vllm", storage):
        quieten_ray_data()
        engine = ServeEngine(model, PromptConfig(), EngineConfig(), folder)

        def features(texts: list[str], name: str) -> Any:
            table = pa.table({"id": [f"{index:06}" for index in range(len(texts))], "text": texts})
            request = GenerationRequest(tokens)
            return generate_features(
                engine, table, request, None, folder, name, 32, lambda done, total: None
            )

        features(prompts[:32], "warm")
        started = time.perf_counter()
        found = features(prompts, "pool")
        seconds = time.perf_counter() - started
        if any(found["error"].to_pylist()):
            raise SystemExit(
                f"rows failed: {[error for error in found['error'].to_pylist() if error][:3]}"
            )
        total = sum(len(row) for row in found["token_ids"].to_pylist())
        turns = []
        for round, digest in enumerate(enter_adapters(storage, 2), start=1):
            request = TokenRequest([5, 9, 12], 1, adapter=f"turn-{round}")
            started = time.perf_counter()
            find_model().generate.remote([request], digest).result()
            turns.append(time.perf_counter() - started)
    return {"seconds": seconds, "tokens": total, "first turn": turns[0], "turn": turns[1]}


def enter_adapters(storage: str, rounds: int) -> list[str]:
    """A run `turn` that has trained some rounds: adapters of rank 16 with random weights. Their
    digests.
    """
    from atgen_ray.models.loading import digest_adapter
    from atgen_ray.store.journal import open_journal
    from atgen_ray.store.layout import round_folder
    from atgen_ray.store.owner import ProcessIdentity
    from atgen_ray.store.run_folder import RunFolder

    folder = RunFolder(storage, "turn")
    journal = open_journal(storage)
    journal.create_run("turn", {"model": {"id": MODEL, "revision": None}}, "")
    lease = journal.acquire("turn", ProcessIdentity("benchmark"), 60)
    for round in range(1, rounds + 1):
        with folder.publish(f"{round_folder(round)}/adapter") as output:
            write_adapter(output, round)
        journal.append(lease, "step", round, "training", {"output": None, "rows": 0})
    lease.release()
    return [
        digest_adapter(folder.local(f"{round_folder(round)}/adapter"))
        for round in range(1, rounds + 1)
    ]


def write_adapter(folder: Path, seed: int = 0) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from atgen_ray.config import ModelConfig
    from atgen_ray.models.loading import load_model

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(load_model(ModelConfig(id=MODEL, dtype="float32")), settings).save_pretrained(
        str(folder)
    )


def measure_merge(tokens: int) -> dict[str, Any]:
    """Merging the adapter into a copy of the model, and the first token of a vLLM engine that is
    started from it.
    """
    from atgen_ray.config import ServiceConfig
    from atgen_ray.engines.vllm_engine import VLLMEngine, vllm_environment
    from atgen_ray.ray_runtime.hardware import count_threads, worker_environment

    os.environ.update(vllm_environment(on_gpu=False) | worker_environment(count_threads(1, None)))
    from peft import PeftModel
    from vllm import LLM, SamplingParams

    from atgen_ray.config import ModelConfig
    from atgen_ray.models.loading import TUNED_DTYPE, load_model, load_tokenizer
    from atgen_ray.ray_runtime.nodes import find_device

    folder = Path(tempfile.mkdtemp())
    write_adapter(folder / "adapter")
    service = ServiceConfig.model_validate(configure("vllm", str(folder)))
    model = ModelConfig(id=MODEL)
    started = time.perf_counter()  # imports are done: a process that stands would have them
    merged: Any = PeftModel.from_pretrained(
        load_model(model, TUNED_DTYPE), str(folder / "adapter")
    ).merge_and_unload()
    merged.save_pretrained(folder / "merged")
    load_tokenizer(model).save_pretrained(folder / "merged")
    engine = VLLMEngine(service.target_model, service.prompt, service.engine)
    arguments = engine.engine_arguments(find_device(0), 0, tuned=True)
    llm = LLM(str(folder / "merged"), **arguments)
    llm.generate(
        [{"prompt_token_ids": [5, 9, 12]}], SamplingParams(max_tokens=1, logprobs=1), use_tqdm=False
    )
    return {"turn": time.perf_counter() - started}


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    "baseline": measure_baseline,
    "replicas": measure_replicas,
    "merge": measure_merge,
}


def write_results(sides: dict[str, dict[str, Any]], prefix: Path) -> None:
    from matplotlib.figure import Figure

    names = {
        "baseline": f"transformers.generate, batches of {BATCH}",
        "replicas": "vLLM replicas fed by Ray Data",
    }
    speeds = {side: sides[side]["tokens"] / sides[side]["seconds"] for side in names}
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(sides, indent=2) + "\n")
    lines = [
        "| features | prompts | seconds | tokens/s | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for side, name in names.items():
        row, ratio = sides[side], speeds[side] / speeds["baseline"]
        lines.append(
            f"| {name} | {row['prompts']} | {row['seconds']:.1f} | {speeds[side]:.0f} | "
            f"{ratio:.2f} |"
        )
    lines += ["", "| from trained adapter to first scored prompt | seconds |", "| --- | --- |"]
    lines.append(
        f"| replica takes an adapter, checked against transformers | "
        f"{sides['replicas']['turn']:.1f} |"
    )
    lines.append(
        f"| the same, the replica's first adapter | {sides['replicas']['first turn']:.1f} |"
    )
    lines.append(f"| merge, save, start an engine | {sides['merge']['turn']:.1f} |")
    table = "\n".join(lines) + "\n"
    prefix.with_suffix(".md").write_text(table)
    print(table)
    figure = Figure(figsize=(7, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(names), list(speeds.values()))
    left.set_xlabel("tokens per second")
    right.barh(["merge and reload", "replica"], [sides["merge"]["turn"], sides["replicas"]["turn"]])
    right.set_xlabel("seconds to the next round")
    figure.savefig(prefix.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=2000, help="prompts of the pool")
    parser.add_argument(
        "--baseline-prompts", type=int, default=200, help="prompts that the baseline is measured on"
    )
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/generation"), metavar="PREFIX"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        side, *settings = json.loads(arguments.child)
        print(json.dumps(SIDES[side](*settings)))
        return
    counts = {"baseline": arguments.baseline_prompts, "replicas": arguments.prompts}
    sides = {}
    for side, count in counts.items():
        found = measure_apart(__file__, side, count, arguments.tokens)
        sides[side] = {"prompts": count} | found
        print(side, sides[side], flush=True)
    sides["merge"] = measure_apart(__file__, "merge", arguments.tokens)
    write_results(sides, arguments.output)


if __name__ == "__main__":
    main()
