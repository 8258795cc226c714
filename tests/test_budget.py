"""The ledger: whatever happens at once, the budget holds."""

import threading
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atgen_ray.config import StoppingConfig
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.core.records import Annotation
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import (
    Account,
    Balance,
    Entry,
    Ledger,
    format_dollars,
    read_accounts,
    read_balance,
)
from atgen_ray.store.owner import ProcessIdentity

JOBS = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=4), min_size=2, max_size=4
)


@settings(max_examples=15, deadline=None)
@given(jobs=JOBS, run_budget=st.integers(1, 120), round_budget=st.integers(1, 120))
def test_concurrent_reservations_stay_within_both_budgets(
    tmp_path_factory: object, jobs: list[list[tuple[int, int]]], run_budget: int, round_budget: int
) -> None:
    journal = Journal(f"sqlite:///{tmp_path_factory.getbasetemp() / 'ledger.db'}")  # type: ignore[attr-defined]
    run = journal.create_run(f"run-{uuid4().hex}", {}, "").name
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    budget = StoppingConfig(dollars=float(run_budget), dollars_per_round=float(round_budget))

    def work(thread: int) -> None:
        ledger = Ledger(run, budget)
        for number, (worst, actual) in enumerate(jobs[thread]):
            key = f"{thread}-{number}"
            with journal.leased_transaction(lease) as connection:
                count, limit = ledger.reserve(
                    connection, thread % 2, "ann", [Entry(key, key, worst * NANO)]
                )
            assert (count == 1) == (limit is None)
            if count:
                assert read_balance(journal, run).paid <= run_budget
                with journal.leased_transaction(lease) as connection:
                    ledger.settle(connection, {key: min(actual, worst) * NANO})

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    balance = read_balance(journal, run)
    assert balance.held == 0
    assert balance.paid <= run_budget
    journal.close()


@pytest.mark.parametrize(
    ("price", "count"), [(0.57, 1), (0.57, 3), (0.29, 100), (1.1, 7), (0.1, 3)]
)
def test_a_budget_of_so_many_prices_buys_so_many(tmp_path: Path, price: float, count: int) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run("r", {}, "")
    ledger = Ledger("r", StoppingConfig(dollars=price * count))
    with journal.leased_transaction(journal.acquire("r", ProcessIdentity("a"), 60)) as connection:
        assert ledger.fit(connection, 1, [to_nano(price)] * (count + 1)) == (count, "run")


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0"), (1, "0.000001"), (NANO, "1"), (570_000_001, "0.570001")]
)
def test_dollars_are_told_in_full_and_never_less(nano: int, text: str) -> None:
    assert format_dollars(nano) == text


def test_a_reservation_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run("r", {}, "")
    budget = StoppingConfig(dollars=10.0)
    with journal.leased_transaction(journal.acquire("r", ProcessIdentity("a"), 60)) as connection:
        assert Ledger("r", budget).reserve(connection, 1, "ann", [Entry("x", "x", 7 * NANO)]) == (
            1,
            None,
        )
    journal.close()
    again = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    with again.leased_transaction(
        again.acquire("r", ProcessIdentity("b"), 60, takeover=True)
    ) as connection:
        assert Ledger("r", budget).reserve(connection, 1, "ann", [Entry("y", "y", 4 * NANO)]) == (
            0,
            "run",
        )
    assert read_balance(again, "r").held == 7


def test_accounts_tell_paid_and_held_of_each_annotator_and_round(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run("r", {}, "")
    lease, ledger = journal.acquire("r", ProcessIdentity("a"), 60), Ledger("r", StoppingConfig())
    with journal.leased_transaction(lease) as connection:
        ledger.hold(connection, 1, "model", [Entry("x", "x", 3 * NANO), Entry("y", "y", 2 * NANO)])
        ledger.settle(connection, {"x": NANO})
    free = [Annotation("x", "label", "model", 0.5), Annotation("z", "label", "dataset", 0.25)]
    journal.record_annotations(
        lease, 2, free
    )  # x is in the ledger, so its own price does not count again
    assert read_accounts(journal, "r") == [
        Account(1, "model", 2, 1.0, 2.0),
        Account(2, "dataset", 1, 0.25, 0.0),
    ]
    assert read_balance(journal, "r") == Balance(1.25, 2.0)
