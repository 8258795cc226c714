"""Milliseconds of whatever a run, a person or a view asks of the journal, over one that is large.

    python benchmarks/journal.py [--labels 10000 100000 1000000] [--entries 5] [--postgres]
    [--output benchmarks/results/journal]

Fills a new journal with one long run by a few statements of SQL: `--labels` labels, 10,000 to a
round, with `--entries` requests and entries of the ledger each. Then times every act and view in
one process for each size: no network, and for `/readyz` without the states that Ray Serve is asked
for. With `--postgres` on a PostgreSQL server of its own too. Several sizes give the exponent of
growth. Peers read everything: labels, the ledger, and `doctor`, whose business that is; its memory
must not grow for that. Writes PREFIX.json and PREFIX.md.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import sqlalchemy as sa
from helpers.postgres import run_postgres
from helpers.services import bearer
from pydantic import SecretStr
from starlette.testclient import TestClient

from atgen_ray.annotation.llm.request_log import RequestLog
from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.config import StoppingConfig
from atgen_ray.config.loading import dump_config, load_config
from atgen_ray.core.money import NANO
from atgen_ray.core.records import Annotation
from atgen_ray.reporting.publish import view_run
from atgen_ray.runs.doctor import examine
from atgen_ray.runs.queries import list_runs, show_run
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import Entry, Ledger, read_accounts, read_balance
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import annotations, dead_letters, ledger, requests, shards, totals

ROUND = 10_000  # labels
STEPS = ("selection", "annotation", "training", "generation", "evaluation")
TEXT = "The answer of an annotating model, as long as a short summary is. " * 10
LIMIT_MS = 100
MEMORY = "memory of the process after all of these"
BURIED = 100  # labels to each dead letter


def fill(journal: Journal, labels: int, entries: int) -> str:
    """Enter a run of `labels` labels with `entries` entries of the ledger each; return its name."""
    name = "long"
    config = dump_config(load_config("demo", []))
    journal.create_run(name, config | {"name": name}, "")
    rounds = -(-labels // ROUND)
    with journal.database.writing() as connection:
        at = _count_to(labels)
        example = _name("example", at)
        label: dict[str, Any] = {
            "run": sa.literal(name),
            "example_id": example,
            "annotator": sa.literal("model"),
            "round": 1 + at // ROUND,
            "text": sa.literal(TEXT, sa.JSON),
            "dollars": sa.literal(0.001),
            "provenance": sa.literal({}, sa.JSON),
            "time": sa.literal(0.0),
        }
        connection.execute(sa.insert(annotations).from_select([*label], sa.select(*label.values())))
        at = _count_to(labels * entries)
        entry: dict[str, Any] = {
            "run": sa.literal(name),
            "key": _name("key", at),
            "round": 1 + at // entries // ROUND,
            "annotator": sa.literal("model"),
            "example_id": _name("example", at // entries),
            "held": sa.literal(NANO // 100),
            "paid": sa.literal(NANO // 1000),
        }
        connection.execute(sa.insert(ledger).from_select([*entry], sa.select(*entry.values())))
        _fill_requests(connection, name, labels, entries)
        rows = []
        for round in range(1, rounds + 1):
            count = min(ROUND, labels - (round - 1) * ROUND)
            money = {"paid": count * entries * NANO // 1000, "held": 0, "inherited": 0}
            outside = {"outside": 0, "unledgered": 0.0}
            key = {"run": name, "round": round, "annotator": "model"}
            rows.append(key | money | outside | {"labels": count, "entries": count * entries})
        connection.execute(sa.insert(totals), rows)
    lease = journal.acquire(name, ProcessIdentity("benchmark"), 600)
    for round in range(1, rounds + 1):
        for step in STEPS:
            journal.append(lease, "step", round, step, {"rows": ROUND}, 1.0)
    journal.set_status(lease, "finished")
    lease.release()
    with journal.database.writing() as connection:
        connection.exec_driver_sql("ANALYZE")
    return name


def _fill_requests(connection: sa.Connection, name: str, labels: int, entries: int) -> None:
    """Enter the requests of all labels, a shard for each label, and dead letters."""
    run = sa.literal(name)
    at = _count_to(labels)
    shard: dict[str, Any] = {
        "run": run,
        "hash": _name("shard", at),
        "annotator": sa.literal("model"),
        "round": 1 + at // ROUND,
        "size": sa.literal(entries),
        "remote": sa.null(),
        "status": sa.literal("completed"),
        "done": sa.true(),
        "time": sa.literal(0.0),
    }
    connection.execute(sa.insert(shards).from_select([*shard], sa.select(*shard.values())))
    at = _count_to(labels * entries)
    request: dict[str, Any] = {
        "run": run,
        "custom_id": _name("key", at),
        "shard": _name("shard", at // entries),
        "annotator": sa.literal("model"),
        "round": 1 + at // entries // ROUND,
        "example_id": _name("example", at // entries),
        "vote": at % entries,
        "repair": sa.literal(0),
        "attempt": sa.literal(0),
        "prompt_hash": sa.literal("0" * 16),
        "state": sa.literal("answered"),
        "response": sa.literal({"text": TEXT[:100]}, sa.JSON),
        "prompt_tokens": sa.literal(300),
        "output_tokens": sa.literal(30),
        "time": sa.literal(0.0),
    }
    connection.execute(sa.insert(requests).from_select([*request], sa.select(*request.values())))
    recount_requests(connection, name)
    at = _count_to(labels // BURIED)
    letter: dict[str, Any] = {
        "run": run,
        "example_id": _name("dead", at),
        "step": sa.literal("annotation"),
        "round": sa.literal(1),
        "reason": sa.literal("the model refused", sa.JSON),
    }
    query = sa.insert(dead_letters).from_select([*letter], sa.select(*letter.values()))
    connection.execute(query)


def _count_to(count: int) -> sa.ColumnElement[int]:
    """A column of the numbers from 0 to `count` - 1."""
    numbers = sa.select(sa.literal(0).label("at")).cte("numbers", recursive=True)
    more = sa.select(numbers.c.at + 1).where(numbers.c.at < count - 1)
    return numbers.union_all(more).c.at


def _name(kind: str, at: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    return sa.literal(f"{kind}-").concat(sa.cast(at, sa.String))


def time_acts(journal: Journal, name: str, repeats: int) -> list[dict[str, Any]]:
    """Median and longest milliseconds of what a run does in a round that begins."""
    numbers = itertools.count()
    last = max(journal.count_labels(name))
    budget = StoppingConfig(dollars=1e9, dollars_per_round=1e9)
    money = Ledger(name, budget)
    lease = journal.acquire(name, ProcessIdentity("benchmark"), 3600)
    keys: list[str] = []

    def launch() -> None:
        other = journal.create_run(f"new-{next(numbers)}", {}, "").name
        journal.acquire(other, ProcessIdentity("benchmark"), 60).release()

    def reserve() -> None:
        keys[:] = [f"new-{next(numbers)}" for _ in range(100)]
        with journal.leased_transaction(lease) as connection:
            found = money.reserve(
                connection, last + 1, "model", [Entry(key, key, NANO) for key in keys]
            )
        assert found == (100, None)

    def settle() -> None:
        with journal.leased_transaction(lease) as connection:
            money.settle(connection, dict.fromkeys(keys, NANO // 2))

    def enter() -> None:
        new = [Annotation(f"label-{next(numbers)}", TEXT, "model", 0.001) for _ in range(100)]
        journal.record_annotations(lease, last + 1, new)

    def resume() -> None:
        journal.committed_steps(name)
        journal.count_labels(name)
        read_balance(journal, name)

    def ask() -> None:
        log = RequestLog(journal, lease, money, "model", last + 1)
        log.find_start()
        log.longest_answer()
        log.read_lengths(judged=False)
        log.open_shards({})

    acts: dict[str, Callable[[], object]] = {
        "launch a run": launch,
        "reserve 100 requests under two budgets": reserve,
        "settle 100 requests": settle,
        "enter 100 labels": enter,
        f"peer: the {ROUND:,} labels of a round read": lambda: journal.annotations(
            name, last, last
        ),
        "resume: steps, labels by round, balance": resume,
        "begin to ask: start, longest answer, lengths, open shards": ask,
        "budget by round and annotator": lambda: read_accounts(journal, name),
    }
    rows = [{"view": act} | _time(call, repeats) for act, call in acts.items()]
    lease.release()
    return rows


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

    one = journal.runs()[0].name
    RunFolder(storage, one).write_json("plan.json", {})
    # Under way again, as far as `/metrics` can tell: of what has ended it shows less.
    lease = journal.acquire(one, ProcessIdentity("benchmark"), 3600)
    journal.set_status(lease, "running")
    views: dict[str, Callable[[], object]] = {
        "atgen-ray runs list": lambda: list_runs(storage, secret),
        "atgen-ray runs show": lambda: show_run(one, storage, secret),
        "report, without the picks": lambda: view_run(one, journal, storage, selection=False),
        "GET / (dashboard)": read("/"),
        "GET /parts/runs (polled)": read("/parts/runs"),
        "GET /metrics": read("/metrics"),
        "GET /api/v1/runs": read("/api/v1/runs"),
        "GET /readyz (journal's part)": control.check,
    }
    rows = [{"view": name} | _time(view, repeats) for name, view in views.items()]
    lease.release()
    spent = sa.select(sa.func.sum(sa.func.coalesce(ledger.c.paid, ledger.c.held)))

    def sum_ledger() -> None:
        with journal.database.reading() as connection:
            connection.execute(spent.where(ledger.c.run == one)).scalar_one()

    states = sa.select(requests.c.state, sa.func.count(), sa.func.sum(requests.c.output_tokens))

    def count_requests() -> None:
        with journal.database.reading() as connection:
            query = states.where(requests.c.run == one).group_by(requests.c.state)
            connection.execute(query).all()

    return [
        *rows,
        {"view": MEMORY} | _time(lambda: None, 1) | {"peak_mb": _peak()},
        {"view": "peer: atgen-ray doctor"} | _time(lambda: examine(journal, storage, one), 1),
        {"view": f"{MEMORY}, then doctor"} | _time(lambda: None, 1) | {"peak_mb": _peak()},
        {"view": "peer: the ledger summed, as a budget was checked before"} | _time(sum_ledger, 3),
        {"view": "peer: requests counted by state, as every view did before"}
        | _time(count_requests, 1),
        {"view": "peer: all labels of one run read"} | _time(lambda: journal.annotations(one), 1),
    ]


def _peak() -> int:
    """The most megabytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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
    """A Markdown table: milliseconds by size, and the exponent of growth between the first and the
    last.
    """
    sizes = sorted({row["labels"] for row in rows})
    heads = [f"{size:,} labels: median ms (longest)" for size in sizes]
    lines = [
        "| " + " | ".join(["database", "view", *heads, "growth"]) + " |",
        "| --- " * (len(sizes) + 3) + "|",
    ]
    for database, view in dict.fromkeys((row["database"], row["view"]) for row in rows):
        mine = [row for row in rows if (row["database"], row["view"]) == (database, view)]
        found = {row["labels"]: row for row in mine}
        cells = [_format(found[size]) if size in found else "" for size in sizes]
        first, last = (found.get(size) for size in (sizes[0], sizes[-1]))
        growth = ""
        if first and last and len(sizes) > 1:
            unit = "peak_mb" if "peak_mb" in first else "median_ms"
            times = last[unit] / max(first[unit], 0.1)
            growth = f"{math.log(times) / math.log(sizes[-1] / sizes[0]):.2f}"
        lines.append("| " + " | ".join([database, view, *cells, growth]) + " |")
    return "\n".join(lines) + "\n"


def _format(row: dict[str, Any]) -> str:
    if "peak_mb" in row:
        return f"{row['peak_mb']} MB"
    return f"{row['median_ms']} ({row['longest_ms']})"


def measure(kind: str, labels: int, entries: int, repeats: int) -> list[dict[str, Any]]:
    """All rows of one database and size."""
    size = {"database": kind, "labels": labels}
    with open_database(kind) as (storage, url):
        journal = Journal(url or f"sqlite:///{storage}/atgen.db")
        started = time.perf_counter()
        name = fill(journal, labels, entries)
        print(f"{size}: filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        found = time_acts(journal, name, repeats)
        found += time_views(journal, storage, url, repeats)
        journal.close()
    return [size | row for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--entries", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/journal"))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in ("sqlite", "postgresql") if given.postgres else ("sqlite",):
        for labels in sorted(given.labels):
            # A process for each size, whose memory is its own.
            with multiprocessing.get_context("spawn").Pool(1) as process:
                rows += process.apply(measure, (kind, labels, given.entries, given.repeats))
            print(tabulate(rows), flush=True)
    slow = [
        row for row in rows if row["median_ms"] >= LIMIT_MS and not row["view"].startswith("peer")
    ]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"entries": given.entries, "limit_ms": LIMIT_MS, "rows": rows}
    given.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    given.output.with_suffix(".md").write_text(tabulate(rows))
    sys.exit(f"{len(slow)} views took {LIMIT_MS} ms or more" if slow else 0)


if __name__ == "__main__":
    main()
