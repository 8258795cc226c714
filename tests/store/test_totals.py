"""Totals are what a count would give, and what is counted is never read to be listed."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.annotation.llm.request_counts import summarize_requests
from atgen_ray.config import StoppingConfig
from atgen_ray.core.money import NANO
from atgen_ray.core.records import Annotation
from atgen_ray.reporting.publish import view_run
from atgen_ray.runs.queries import list_runs, show_run
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.pages.run_views import RunViews
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store import migrations
from atgen_ray.store.journal import Journal
from atgen_ray.store.labels import enter_annotations
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import (
    Balance,
    Entry,
    Ledger,
    read_accounts,
    read_balance,
    read_paid,
    read_spending,
)
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import TABLES, annotations, ledger, totals


def label(journal: Journal, lease: Lease, round: int, count: int, price: float = 0.5) -> None:
    """Enters labels of one round, the even ones with an entry in the ledger."""
    money = Ledger(lease.run, StoppingConfig())
    ids = [f"{round}-{at}" for at in range(count)]
    with journal.leased_transaction(lease) as connection:
        known = money.find(connection, [f"key-{id_}" for id_ in ids])
        entries = [
            Entry(f"key-{id_}", id_, 2 * NANO) for id_ in ids[::2] if f"key-{id_}" not in known
        ]
        money.hold(connection, round, "model", entries)
        money.settle(connection, {f"key-{id_}": NANO // 4 for id_ in ids[::2]})
    journal.record_annotations(
        lease, round, [Annotation(id_, f"text {id_}", "model", price) for id_ in ids]
    )


def count(journal: Journal, run: str) -> list[tuple[Any, ...]]:
    """The columns of `totals` by round and annotator, counted anew."""
    entered = sa.select(ledger.c.key).where(
        (ledger.c.run == annotations.c.run) & (ledger.c.example_id == annotations.c.example_id)
    )
    with journal.database.reading() as connection:
        labels = connection.execute(
            sa.select(annotations, ~entered.exists()).where(annotations.c.run == run)
        ).all()
        money = connection.execute(sa.select(ledger).where(ledger.c.run == run)).all()
    found = []
    for key in sorted({(row.round, row.annotator) for row in (*labels, *money)}):
        mine = [row for row in labels if (row.round, row.annotator) == key]
        entries = [row for row in money if (row.round, row.annotator) == key]
        found.append(
            (
                *key,
                len(mine),
                len(entries),
                sum(row.paid or 0 for row in entries),
                sum(row.held for row in entries if row.paid is None),
                sum(row[-1] for row in mine),
                pytest.approx(sum(row.dollars for row in mine if row[-1])),
                sum(row.inherited or 0 for row in entries),
            )
        )
    return found


def kept(journal: Journal, run: str) -> list[tuple[Any, ...]]:
    query = sa.select(*list(totals.c)[1:]).where(totals.c.run == run)
    query = query.order_by(totals.c.round, totals.c.annotator)
    with journal.database.reading() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_totals_follow_labels_and_money_in_every_order(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    money = Ledger(run, StoppingConfig())
    label(journal, lease, 1, 5)
    label(journal, lease, 2, 3)
    label(journal, lease, 2, 3)  # once more: what is there is there
    assert kept(journal, run) == count(journal, run)
    with journal.leased_transaction(lease) as connection:
        money.hold(
            connection,
            3,
            "model",
            [Entry("x", "x", 7), Entry("y", "y", 8), Entry("late", "1-1", 9)],
        )
        money.hold(connection, 3, "judge", [Entry("z", "1-0", 1)])
        money.settle(connection, {"x": 5, "nobody": 100})
        money.settle(connection, {"x": 1})  # it is settled already
    assert kept(journal, run) == count(
        journal, run
    )  # of 1-1, which was outside the ledger, the price counts no more
    assert journal.count_labels(run) == {1: 5, 2: 3}
    assert journal.total(run).labels == 8
    assert (
        journal.total(run).dollars
        == read_balance(journal, run).paid
        == sum(read_spending(journal, run).values())
    )
    with suppress(RuntimeError), journal.leased_transaction(lease) as connection:
        enter_annotations(
            journal.database, connection, run, 4, [Annotation("z", "z", "model", 1.0)]
        )
        raise RuntimeError
    assert kept(journal, run) == count(journal, run)


def copy_into(old: sa.Engine, journal: Journal) -> None:
    """Enters the rows of a journal into the tables of an older one, as far as it has them."""
    with old.begin() as to, journal.database.reading() as source:
        known = sa.inspect(to)
        for table in TABLES.sorted_tables:
            if not known.has_table(table.name):
                continue
            columns = [table.c[column["name"]] for column in known.get_columns(table.name)]
            rows = [dict(row) for row in source.execute(sa.select(*columns)).mappings()]
            if rows:
                to.execute(sa.insert(table), rows)


def test_a_journal_from_before_there_were_totals_has_them_counted(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'new.db'}")
    lease = journal.acquire(journal.create_run("old", {}, "").name, ProcessIdentity("a"), 600)
    label(journal, lease, 1, 5)
    with journal.leased_transaction(lease) as connection:
        Ledger("old", StoppingConfig()).hold(connection, 2, "model", [Entry("x", "x", 7)])
    before = kept(journal, "old")
    old = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}", poolclass=sa.NullPool)
    with old.begin() as connection:
        migrations.upgrade(connection, "0002")
    copy_into(old, journal)
    journal.close()
    again = Journal(str(old.url))
    assert kept(again, "old") == before
    assert read_balance(again, "old") == Balance(0.75 + 2 * 0.5, 7 / NANO)
    again.close()


@contextmanager
def counted_steps() -> Iterator[Callable[[], int]]:
    """Instructions that SQLite has executed since the last call: every row that it looks at takes
    some.
    """
    done = itertools.count()

    def watch(connection: Any, record: Any, proxy: Any) -> None:
        connection.set_progress_handler(lambda: next(done) and None, 1)

    def take() -> int:
        nonlocal done
        taken, done = next(done), itertools.count()
        return taken

    sa.event.listen(sa.pool.Pool, "checkout", watch)
    try:
        yield take
    finally:
        sa.event.remove(sa.pool.Pool, "checkout", watch)


def test_what_is_listed_costs_the_same_however_many_labels_there_are(tmp_path: Path) -> None:
    storage = str(tmp_path)
    service = parse_service({"storage": storage})
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    token = Tokens(journal.database).create("admin")
    lease = journal.acquire(journal.create_run("many", {}, "").name, ProcessIdentity("a"), 600)
    journal.append(lease, "step", 1, "annotation", {"rows": 1})
    RunFolder(storage, "many").write_json("plan.json", {})
    client = TestClient(create_api(service, None, None), headers=bearer(token))
    views = RunViews(service, journal)
    looks: dict[str, Callable[[], Any]] = {
        path: partial(client.get, path) for path in ("/", "/parts/runs", "/metrics", "/api/v1/runs")
    }
    looks |= {
        "readyz": RunManager(service, journal).check,
        "runs list": lambda: list_runs(storage, None),
        "runs show": lambda: show_run("many", storage, None),
        "view": lambda: view_run("many", journal, storage, selection=False),
        "state": lambda: views._describe("many"),
    }
    costs: list[dict[str, int]] = []
    with counted_steps() as take:
        for size in (10, 1000):
            label(journal, lease, 1, size)
            for look in looks.values():
                look()  # once without counting: statements are prepared, tables described
            costs.append({name: (take(), look(), take())[2] for name, look in looks.items()})
    assert journal.total("many").labels == 1000
    assert costs[0] == costs[1]
    assert list_runs(storage, None)[0]["labels"] == 1000
    assert client.get("/api/v1/runs").json()[0]["labels"] == 1000
    journal.close()


def test_what_a_round_does_costs_the_same_however_many_rounds_were_before(tmp_path: Path) -> None:
    """Budgets, money, labels and accounts are read and written without a look at history."""
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    lease = journal.acquire(journal.create_run("long", {}, "").name, ProcessIdentity("a"), 600)
    money = Ledger("long", StoppingConfig(dollars=1e6, dollars_per_round=1e6))

    def reserve(round: int) -> None:
        entries = [Entry(f"key-{round}-{at}", f"{round}-{at}", NANO) for at in range(3)]
        with journal.leased_transaction(lease) as connection:
            assert money.reserve(connection, round, "model", entries) == (3, None)

    def settle(round: int) -> None:
        keys = [f"key-{round}-{at}" for at in range(2)]
        with journal.leased_transaction(lease) as connection:
            assert len(money.read_held(connection, keys)) == 2
            money.settle(connection, dict.fromkeys(keys, NANO // 2))

    def enter(round: int) -> None:
        new = [Annotation(f"{round}-{at}", "text", "model", 0.5) for at in range(4)]
        assert journal.record_annotations(lease, round, new) == 4

    def read(round: int) -> None:
        assert len(journal.annotations("long", first=round, last=round)) == 4
        assert len(read_paid(journal, "long", "model", round)) == 3
        assert journal.count_labels("long")[round] == 4
        assert len(read_accounts(journal, "long")) == 4

    costs: list[dict[str, int]] = []
    with counted_steps() as take:
        # The first round of all prepares statements, and the last has a thousand labels before it.
        for round, before in ((2, 10), (3, 10), (4, 1000)):
            label(journal, lease, 1, before)
            steps = {}
            for act in (reserve, settle, enter, read):
                take()
                act(round)
                steps[act.__name__] = take()
            costs.append(steps)
            with journal.leased_transaction(lease) as connection:  # as if it had not been
                for table in (totals, annotations, ledger):
                    connection.execute(sa.delete(table).where(table.c.round == round))
    assert costs[1] == costs[2]
    journal.close()


def test_shards_under_way_are_found_without_those_that_are_done(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    asked: list[tuple[str, Any]] = []

    def keep(connection: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        if "FROM shards" in statement:
            asked.append((statement, given))

    sa.event.listen(sa.Engine, "before_cursor_execute", keep)
    summarize_requests(journal, "any")
    sa.event.remove(sa.Engine, "before_cursor_execute", keep)
    [(statement, given)] = asked
    with journal.database.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
    assert [row[-1] for row in plan] == ["SEARCH shards USING INDEX open_shards (run=?)"]
    journal.close()
