"""What it takes to list runs: every view that counts labels, over a journal of a million of them.

    python benchmarks/journal.py [--runs 200] [--labels 1000000] [--postgres] [--output
    benchmarks/results/journal]

Fills a new journal by the calls that a run makes (labels, ledger, events), then times each view in
this process: no network, and for `/readyz` without the states that Ray Serve is asked for. With
`--postgres` on a PostgreSQL server of its own too. The peer is what each run was counted with
before: all its labels read. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers.postgres import run_postgres
from helpers.services import bearer
from pydantic import SecretStr
from starlette.testclient import TestClient

from atgen_ray.config import StoppingConfig
from atgen_ray.config.loading import dump_config, load_config
from atgen_ray.core.money import NANO
from atgen_ray.core.records import Annotation
from atgen_ray.runs.queries import list_runs
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Entry, Ledger
from atgen_ray.store.owner import ProcessIdentity

ROUNDS = 10
STEPS = ("selection", "annotation", "training", "generation", "evaluation")
TEXT = "The answer of an annotating model, as long as a short summary is. " * 10
LIMIT_MS = 100


def fill(journal: Journal, runs: int, labels: int) -> None:
    """Enters `labels` labels, one in `runs` of them in each run, each with its entry in the
    ledger.
    """
    config = dump_config(load_config("demo", []))
    for number in range(runs):
        name = f"run-{number:04d}"
        journal.create_run(name, config | {"name": name}, "")
        lease = journal.acquire(name, ProcessIdentity("benchmark"), 600)
        for round in range(1, ROUNDS + 1):
            _fill_round(journal, lease, round, labels // runs // ROUNDS)
        journal.set_status(lease, "finished")
        lease.release()


def _fill_round(journal: Journal, lease: Any, round: int, count: int) -> None:
    ids = [f"{round:03d}-{at:09d}" for at in range(count)]
    ledger = Ledger(lease.run, StoppingConfig())
    with journal.leased_transaction(lease) as connection:
        ledger.hold(connection, round, "model", [Entry(id_, id_, NANO // 100) for id_ in ids])
        ledger.settle(connection, dict.fromkeys(ids, NANO // 1000))
    journal.record_annotations(lease, round, [Annotation(id_, TEXT, "model", 0.001) for id_ in ids])
    for step in STEPS:
        journal.append(lease, "step", round, step, {"rows": count}, 1.0)


def time_views(
    journal: Journal, storage: str, url: str | None, repeats: int
) -> list[dict[str, Any]]:
    """Median and longest milliseconds of each view."""
    service = parse_service({"storage": storage} | ({"database_url": url} if url else {}))
    control = RunManager(service, journal)
    client = TestClient(
        create_api(service, None, None), headers=bearer(Tokens(journal.database).create("admin"))
    )
    secret = SecretStr(url) if url else None

    def read(path: str) -> Callable[[], object]:
        return lambda: client.get(path).raise_for_status()

    views: dict[str, Callable[[], object]] = {
        "atgen-ray runs list": lambda: list_runs(storage, secret),
        "GET / (dashboard)": read("/"),
        "GET /parts/runs (polled)": read("/parts/runs"),
        "GET /metrics": read("/metrics"),
        "GET /api/v1/runs": read("/api/v1/runs"),
        "GET /readyz (journal's part)": control.check,
    }
    rows = [{"view": name} | _time(view, repeats) for name, view in views.items()]
    one = journal.runs()[0].name
    return [
        *rows,
        {"view": "peer: all labels of one run read"}
        | _time(lambda: journal.annotations(one), repeats),
    ]


def _time(view: Callable[[], object], repeats: int) -> dict[str, float]:
    view()  # the first look imports and prepares
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        view()
        taken.append(1000 * (time.perf_counter() - started))
    return {"median_ms": round(statistics.median(taken), 1), "longest_ms": round(max(taken), 1)}


@contextmanager
def open_database(kind: str) -> Iterator[tuple[str, str | None]]:
    """A new storage, and the URL of its journal where it has one of its own."""
    with tempfile.TemporaryDirectory(prefix="atgen-pg-") as folder:
        storage = Path(folder) / "storage"
        storage.mkdir()
        if kind == "sqlite":
            yield str(storage), None
            return
        with run_postgres(Path(folder)) as server:
            yield str(storage), server.url


def tabulate(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| database | view | median ms | longest ms |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['database']} | {row['view']} | {row['median_ms']} | {row['longest_ms']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/journal"))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in ("sqlite", "postgresql") if given.postgres else ("sqlite",):
        with open_database(kind) as (storage, url):
            journal = Journal(url or f"sqlite:///{storage}/atgen.db")
            started = time.perf_counter()
            fill(journal, given.runs, given.labels)
            print(f"{kind}: filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            rows += [
                {"database": kind} | row for row in time_views(journal, storage, url, given.repeats)
            ]
            print(tabulate(rows), flush=True)
            journal.close()
    slow = [
        row for row in rows if row["median_ms"] >= LIMIT_MS and not row["view"].startswith("peer")
    ]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"runs": given.runs, "labels": given.labels, "limit_ms": LIMIT_MS, "rows": rows}
    given.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    given.output.with_suffix(".md").write_text(tabulate(rows))
    sys.exit(f"{len(slow)} views took {LIMIT_MS} ms or more" if slow else 0)


if __name__ == "__main__":
    main()
