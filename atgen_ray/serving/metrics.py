"""Metrics of the service for Prometheus: its runs, by the journal, and its requests.

Everything about runs is read in a fixed number of queries, whatever the number of runs, so that
every replica tells the same. Requests are counted by each replica for itself.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from atgen_ray.annotation.llm.request_counts import select_states
from atgen_ray.core.money import NANO
from atgen_ray.runs.queries import read_provider
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import UNDER_WAY
from atgen_ray.store.tables import (
    controllers,
    dead_letters,
    request_totals,
    shards,
    tasks,
    totals,
)

Metric = GaugeMetricFamily | CounterMetricFamily


class RequestMetrics:
    """Requests that this replica of the API answered, and how long they took."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answered = Counter(
            "atgen_http_requests",
            "Requests answered by this replica of the API",
            ["method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "atgen_http_request_seconds",
            "Seconds until an answer began",
            registry=self.registry,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )

    def count(self, method: str, status: int, seconds: float) -> None:
        """Count an answer; `seconds` until it began."""
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self._answered.labels(known, str(status)).inc()
        self._seconds.observe(seconds)


class RunCollector(Collector):
    """Reads the metrics of all runs of a storage when it is asked."""

    def __init__(self, journal: Journal, storage: str, failing: Mapping[str, bool]) -> None:
        """`failing`: for each dependency of the service whether it failed when last looked at."""
        self._journal = journal
        self._storage = storage
        self._failing = failing

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        ready = GaugeMetricFamily(
            "atgen_ready", "1 while a dependency of the service can be used", labels=["check"]
        )
        for name, fails in self._failing.items():
            ready.add_metric([name], 0 if fails else 1)
        yield ready
        if self._failing.get("database"):
            return
        yield from _describe_totals(self._journal)
        yield from _describe_runs(_read_state(self._journal))
        yield _describe_providers(self._journal, self._storage)


@dataclass(frozen=True)
class State:
    """What is known of the runs beside their totals. Ages are seconds by the database's clock."""

    idle: dict[str, float]  # since the last event, of runs under way
    lease: dict[str, float]  # until the lease ends, of runs under way
    epochs: dict[str, int]
    held: dict[str, float]  # dollars
    dead: list[tuple[str, str, int]]  # run, step, how many
    tasks: list[tuple[str, str, int, float]]  # run, state, how many, age of the oldest
    requests: list[tuple[str, str, int]]  # run, state, how many
    waiting: dict[str, float]  # age of the oldest shard under way


def _read_state(journal: Journal) -> State:
    active = [each for each in journal.totals() if each.status in UNDER_WAY]
    names = [each.name for each in active]
    with journal.database.reading() as connection:
        now = journal.database.clock(connection)

        def read(query: sa.Select[*tuple[Any, ...]]) -> list[Any]:
            return [tuple(row) for row in connection.execute(query)]

        def ages(column: sa.Column[Any], which: Any, of: Any) -> dict[str, float]:
            query = sa.select(column.table.c.run, of(column)).where(which)
            return {run: now - at for run, at in read(query.group_by(column.table.c.run))}

        waiting = ages(shards.c.time, ~shards.c.done, sa.func.min)
        lease = sa.select(controllers.c.run, controllers.c.expires).where(
            controllers.c.run.in_(names), controllers.c.owner.is_not(None)
        )

        def counted(*columns: sa.Column[Any]) -> sa.Select[Any]:
            """Of runs under way alone: what has ended grows without bound."""
            more = (sa.func.min(tasks.c.changed),) if columns[0].table is tasks else ()
            query = sa.select(*columns, sa.func.count(), *more)
            return query.where(columns[0].in_(names)).group_by(*columns)

        work = counted(tasks.c.run, tasks.c.state).where(tasks.c.gold.is_(None))
        held = sa.select(totals.c.run, sa.func.sum(totals.c.held))
        return State(
            idle={each.name: now - each.last_event for each in active if each.last_event},
            lease={run: expires - now for run, expires in read(lease)},
            epochs=dict(read(sa.select(controllers.c.run, controllers.c.epoch))),
            held={run: int(nano) / NANO for run, nano in read(held.group_by(totals.c.run))},
            dead=read(counted(dead_letters.c.run, dead_letters.c.step)),
            tasks=[
                (run, state, number, now - changed) for run, state, number, changed in read(work)
            ],
            requests=read(select_states(request_totals.c.run.in_(names))),
            waiting=waiting,
        )


def _describe_totals(journal: Journal) -> Iterator[Metric]:
    rows = journal.totals()
    states = [(each.name, journal.describe_status(each)) for each in rows]
    counted: dict[str, int] = {}
    for _, status in states:
        counted[status] = counted.get(status, 0) + 1
    yield _gauge("atgen_runs", "Runs by status", ["status"], counted.items())
    yield _gauge(
        "atgen_run_status",
        "1 for the status that a run has",
        ["run", "status"],
        ((pair, 1) for pair in states),
    )
    numbers = {
        "round": "Last round of a run",
        "labels": "Labels of a run",
        "dollars": "Dollars spent on labels of a run",
    }
    for name, text in numbers.items():
        found = ((each.name, getattr(each, name)) for each in rows)
        yield _gauge(f"atgen_run_{name}", text, ["run"], found)


def _describe_runs(state: State) -> Iterator[Metric]:
    run = ["run"]
    yield _gauge(
        "atgen_run_dollars_held", "Dollars held for work under way", run, state.held.items()
    )
    yield _gauge(
        "atgen_run_idle_seconds",
        "Seconds since the last event of a run that is under way",
        run,
        state.idle.items(),
    )
    yield _gauge(
        "atgen_run_lease_seconds",
        "Seconds until the lease of a run's controller ends; negative: it was lost",
        run,
        state.lease.items(),
    )
    taken = CounterMetricFamily(
        "atgen_run_controllers", "How often a controller took the run's lease", labels=run
    )
    for name, epoch in state.epochs.items():
        taken.add_metric([name], epoch)
    yield taken
    yield _gauge(
        "atgen_run_dead_letters",
        "Rows that a step could not use",
        ["run", "step"],
        (((name, step), number) for name, step, number in state.dead),
    )
    yield _gauge(
        "atgen_run_requests",
        "Requests to annotating models by state",
        ["run", "state"],
        (((name, of), number) for name, of, number in state.requests),
    )
    yield _gauge(
        "atgen_run_oldest_request_seconds",
        "Age of the oldest shard of requests that a provider has not answered",
        run,
        state.waiting.items(),
    )
    yield _gauge(
        "atgen_run_tasks",
        "Tasks for people by state",
        ["run", "state"],
        (((name, of), number) for name, of, number, _ in state.tasks),
    )
    yield _gauge(
        "atgen_run_oldest_task_seconds",
        "How long the task that waits longest in this state has been in it",
        ["run", "state"],
        (((name, of), age) for name, of, _, age in state.tasks if of in ("open", "disputed")),
    )


def _describe_providers(journal: Journal, storage: str) -> Metric:
    """Return for how long a provider has asked each run under way to wait."""
    waits: list[tuple[str, float]] = []
    for each in journal.totals():
        if each.status not in UNDER_WAY:
            continue
        until = read_provider_wait(RunFolder(storage, each.name))
        if until is not None:
            waits.append((each.name, max(0.0, until - time.time())))
    text = "Seconds that a run's provider still asks it to wait"
    return _gauge("atgen_run_provider_wait_seconds", text, ["run"], waits)


def read_provider_wait(folder: RunFolder) -> float | None:
    """Return until when (seconds since 1970) the run's provider is not asked; None without one."""
    from datetime import datetime

    state = read_provider(folder)
    if state is None or not state["waiting_until"]:
        return None
    return datetime.fromisoformat(state["waiting_until"]).timestamp()


def _gauge(
    name: str, text: str, labels: list[str], found: Iterable[tuple[Any, float]]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for key, value in found:
        gauge.add_metric(list(key) if isinstance(key, tuple) else [key], value)
    return gauge
