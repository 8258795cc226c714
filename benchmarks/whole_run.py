"""What a whole run costs beside its steps: `atgen-ray run` against the same steps in a plain loop.

    python benchmarks/whole_run.py [CONFIG] [KEY=VALUE ...] [--output benchmarks/results/whole-run]

The plain side is one process without Ray: it reads, embeds, generates, selects, trains, evaluates
and writes the report with the same functions, model, batch sizes, threads and seeds, one step after
the other. So the difference is everything that Ray brings: its start, its processes and what they
import, what travels between them, its end; the command's preflight is counted with it.

Without arguments it runs the demo, about ten minutes for both sides on two quiet cores. Seconds on
the clock mean something on a quiet machine only. CPU seconds are those of all processes of a side,
and those that fell into a step's time. Both sides must have chosen, labelled and scored the same.
Writes PREFIX.json and PREFIX.md.
"""

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import pyarrow as pa

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import load_config
from atgen_ray.core.stored import Stored
from atgen_ray.data import Split, SplitReader, build_split, open_split
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, store_embeddings
from atgen_ray.engines.base import OUTPUT_SCHEMA
from atgen_ray.engines.generation import gather_features, plan_batches
from atgen_ray.engines.transformers_engine import TransformersEngine, TransformersWorker
from atgen_ray.evaluation.aggregation import score_cases
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.runs.driver import enter_run
from atgen_ray.runs.leased_run import LeasedRun, Surroundings
from atgen_ray.runs.workers import Workers
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.training import TrainingExample, TrainingResult
from atgen_ray.training.fine_tune import fine_tune

ALIKE = ["engine.backend=transformers", "cache=null"]  # so that neither side saves the other's work
SAMPLED = 0.2  # seconds between two looks at the processes
BECOME_SUBREAPER = 36  # prctl: orphans of a side stay children of this process
BEFORE, AFTER = "before the first step", "between steps, report, end"


# The plain side


def quiet(done: int, total: int) -> None: ...


def read_plainly(*arguments: Any, **named: Any) -> SplitReader:
    with reading_in_process():
        return open_split(*arguments, **named)


def build_plainly(*arguments: Any, **named: Any) -> Split:
    with reading_in_process():
        return build_split(*arguments, **named)


def embed_plainly(folder: RunFolder, space: EmbeddingSpace, progress: Any) -> None:
    """The vector of each different text, with the batches of `embed_pool`."""
    pool = folder.read_table("pool.parquet", ["content", "text"])
    rows = {row["content"]: row["text"] for row in pool.to_pylist()}
    ordered = sorted(rows, key=lambda content: (-len(rows[content]), content))
    encode = space.build_encoder(count_threads(1, None))
    size = space.embedding.batch_size
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        texts = space.choose_texts(pa.chunked_array([[rows[content] for content in part]]))
        table = encode(pa.table({"content": part, "text": texts}))
        store_embeddings(folder, table.cast(EMBEDDING_SCHEMA))


def generate_plainly(
    engine: "PlainEngine",
    examples: pa.Table,
    request: Any,
    adapter: Stored | None,
    folder: RunFolder,
    parts: str,
    batch_size: int,
    progress: Any,
) -> pa.Table:
    """The answers of one worker, which loads the model as a pass of the run does."""
    config = engine.config
    worker = TransformersWorker(config.model, config.prompt, request, adapter, config.engine)
    planned = plan_batches(examples, request.samples, batch_size)
    made = [OUTPUT_SCHEMA.empty_table(), *map(worker, planned)]
    return gather_features(examples["id"], pa.concat_tables(made))


def train_plainly(
    examples: Sequence[TrainingExample],
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
    by_id = sorted(examples, key=lambda example: example.id)
    tuned = fine_tune(
        [vars(example) for example in by_id],
        model,
        prompt,
        training,
        seed,
        training.threads_per_worker,
        quiet,
        start_from,
        1,
        output,
        [vars(example) for example in sorted(dev, key=lambda example: example.id)],
        logs=logs,
        probes=probes,
    )
    return TrainingResult(**tuned)


class PlainEngine(TransformersEngine):
    """What the round loop asks of an engine; `generate_plainly` answers in its place."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.model, config.prompt, config.engine)
        self.config = config


def run_plainly(config: RunConfig) -> None:
    """The round loop of a run in this process, whose steps are plain calls."""
    workers = Workers(
        survey=lambda *_: {"here": {"engine": "transformers"}},
        count_gpus_of=lambda *_: 0.0,
        open_split=read_plainly,
        build_split=build_plainly,
        embed_pool=embed_plainly,
        explain_choice=lambda engine, model, name: {"engine": name, "why": "it is the plain side"},
        build_engine=lambda *_: PlainEngine(config),
        generate_features=generate_plainly,
        train_adapter=train_plainly,
        score=score_cases,
    )
    with contextlib.closing(open_journal(config.storage, config.database_url)) as journal:
        config = enter_run(config, journal)
    ended = threading.Event()
    around = Surroundings(quiet, ended.set, ended.set, workers=workers)
    run = LeasedRun(config, ProcessIdentity("plain"), "run", around)
    run.start()
    ended.wait()
    end = run.poll(2**31)
    if end.status != "finished":
        sys.exit(f"{end.status}: {end.message}")


# Both sides from outside


class Clock:
    """Samples the CPU seconds of all processes below this one, in a thread, while it is open."""

    def __init__(self) -> None:
        self._spent: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.times: list[float] = []
        self.seconds: list[float] = []

    def __enter__(self) -> "Clock":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def between(self, begin: float, end: float) -> float:
        """CPU seconds from one time to another, both as `time.time` gives them."""
        low, high = np.interp([begin, end], self.times, self.seconds)
        return float(high - low)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLED):
            self._look()

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                self._spent[process.pid, process.create_time()] = used.user + used.system
        self.times.append(time.time())
        self.seconds.append(sum(self._spent.values()))


def measure(command: Sequence[str], config: RunConfig, folder: Path) -> dict[str, Any]:
    """Run one side into the storage `folder`; seconds by step, on the clock and of CPUs."""
    begin = time.time()
    with Clock() as clock, (folder.parent / f"{folder.name}.log").open("wb") as log:
        subprocess.run([*command, f"storage={folder}"], check=True, stdout=log, stderr=log)
        end = time.time()
    with contextlib.closing(open_journal(str(folder), None)) as journal:
        steps = [event for event in journal.events(config.name, 0) if event.is_step]
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    first = min(event.time - (event.seconds or 0.0) for event in steps)
    wall[BEFORE], cpu[BEFORE] = first - begin, clock.between(begin, first)
    for event in steps:
        name, taken = str(event.step), event.seconds or 0.0
        wall[name] += taken
        cpu[name] += clock.between(event.time - taken, event.time)
    wall[AFTER] = end - begin - sum(wall.values())
    cpu[AFTER] = clock.seconds[-1] - clock.seconds[0] - sum(cpu.values())
    return {"seconds": dict(wall), "cpu": dict(cpu), "outcome": read_outcome(config, folder)}


def read_outcome(config: RunConfig, folder: Path) -> dict[str, Any]:
    """What both sides must agree about: the labels, and the scores to rounding."""
    run = RunFolder(str(folder), config.name)
    scores = run.read_json("metrics.json")
    labels = Path(run.path("labeled.jsonl")).read_text().splitlines()
    return {"inputs": sorted(json.loads(line)["input"] for line in labels), "scores": scores}


def tabulate(sides: dict[str, dict[str, Any]]) -> str:
    """A line for each step: seconds and CPU seconds of both sides, and their ratio."""
    plain, ray = sides["plain"], sides["ray"]
    lines = [
        "| | plain (s) | run (s) | ratio | plain (CPU s) | run (CPU s) | ratio |",
        "|" + " --- |" * 7,
    ]

    def line(name: str, values: Sequence[float]) -> str:
        pairs = zip(values[::2], values[1::2], strict=True)
        cells = [f"{a:.1f} | {b:.1f} | {f'{b / a:.2f}' if a > 0.05 else ''}" for a, b in pairs]
        return f"| {name} | {' | '.join(cells)} |"

    totals = np.zeros(4)
    for name in dict.fromkeys([*ray["seconds"], *plain["seconds"]]):
        four = [side[kind].get(name, 0.0) for kind in ("seconds", "cpu") for side in (plain, ray)]
        totals += four
        lines.append(line(name, four))
    lines.append(line("**all**", totals.tolist()))
    share = 1 - totals[::2] / totals[1::2]
    lines.append("")
    lines.append(
        f"Of the run's seconds {share[0]:.1%} are not those of the plain loop, and of its CPU "
        f"seconds {share[1]:.1%}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="demo", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/whole-run"), metavar="PREFIX"
    )
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    overrides = [*ALIKE, *arguments.overrides]
    config = load_config(arguments.config, overrides)
    if arguments.plain:
        run_plainly(config)
        return
    ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1)
    given = [arguments.config, *overrides]
    commands = {
        "plain": [sys.executable, __file__, "--plain", *given],
        "ray": [str(Path(sys.executable).parent / "atgen-ray"), "run", *given],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for name, command in commands.items():
            sides[name] = measure(command, config, Path(folder, name))
            print(name, f"{sum(sides[name]['seconds'].values()):.0f} s", flush=True)
    if sides["plain"]["outcome"]["inputs"] != sides["ray"]["outcome"]["inputs"]:
        sys.exit("the two sides have not labelled the same examples")
    arguments.output.with_suffix(".json").write_text(json.dumps(sides, indent=1) + "\n")
    table = tabulate(sides)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
