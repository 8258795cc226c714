"""The sums of requests are what a count would give, and a long log is never read for a view."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.services import bearer
from starlette.testclient import TestClient

from atgen_ray.annotation.llm.prompts import JUDGED, Prompt
from atgen_ray.annotation.llm.request_counts import (
    count_tokens,
    measure_answers,
    summarize_requests,
)
from atgen_ray.annotation.llm.request_log import RequestLog, Settlement
from atgen_ray.annotation.llm.request_totals import has_wrong_sums, recount_requests
from atgen_ray.annotation.llm.retry import reopen_requests
from atgen_ray.annotation.request import AnnotationRequest
from atgen_ray.config import StoppingConfig
from atgen_ray.core.records import DeadLetter
from atgen_ray.reporting.publish import view_run
from atgen_ray.runs.doctor import examine, repair
from atgen_ray.runs.queries import list_runs, show_run
from atgen_ray.serving.application import create_api, parse_service
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.ledger import Ledger
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import request_totals, requests

LARGE = ("annotations", "ledger", "requests", "shards", "dead_letters", "tasks", "assignments")


def open_log(lease: Lease, round: int) -> RequestLog:
    assert isinstance(lease.journal, Journal)
    return RequestLog(lease.journal, lease, Ledger(lease.run, StoppingConfig()), "model", round)


def ask(lease: Lease, round: int, ids: list[str]) -> list[str]:
    """Enters one request for each example as sent; returns their ids."""
    prompt = Prompt("h", (("user", "q"),))
    wanted = [(AnnotationRequest(id_, 0, 0, prompt), 0) for id_ in ids]
    entered, _ = open_log(lease, round).intend([wanted], lambda _: 10)
    return [attempt.custom_id for shard in entered for attempt in shard.attempts]


def settle(lease: Lease, round: int, ids: list[str], state: str, tokens: int | None) -> None:
    shard = ids[0].partition("-")[0]
    outcomes = [
        Settlement(id_, state, 1, prompt_tokens=tokens, output_tokens=tokens) for id_ in ids
    ]
    open_log(lease, round).settle({shard: outcomes})


def is_exact(journal: Journal, run: str) -> bool:
    with journal.database.reading() as connection:
        return not has_wrong_sums(connection, run)


def test_sums_follow_the_requests(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    first = ask(lease, 1, ["a", "b", "c", f"{JUDGED}x"])
    assert summarize_requests(journal, run)["requests"] == {"sent": 4}
    settle(lease, 1, first[:2], "answered", 7)
    settle(lease, 1, first[:2], "refused", 99)  # a settled request never changes
    settle(lease, 1, first[2:3], "refused", None)
    settle(lease, 1, first[3:], "answered", 50)
    assert summarize_requests(journal, run)["requests"] == {"answered": 3, "refused": 1}
    assert count_tokens(journal, run)["annotator_output_tokens"] == 14  # without the judge's
    assert count_tokens(journal, run)["annotator_requests"] == 3
    measured = measure_answers(journal, [run], "model")
    assert measured is not None
    assert (measured.count, measured.prompt, measured.output) == (2, 7.0, 7.0)
    assert open_log(lease, 2).longest_answer() == 50
    assert is_exact(journal, run)
    lease.release()
    assert reopen_requests(journal, run, "refused").requests == 1
    assert summarize_requests(journal, run)["requests"] == {"answered": 3, "unanswered": 1}
    assert is_exact(journal, run)


def test_a_round_without_answers_knows_no_longest_one(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    assert open_log(lease, 1).longest_answer() is None
    sent = ask(lease, 1, ["a"])
    settle(lease, 1, sent, "refused", None)
    assert open_log(lease, 2).longest_answer() is None


def test_doctor_finds_and_mends_wrong_sums(tmp_path: Path) -> None:
    storage = str(tmp_path)
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    lease = journal.acquire(journal.create_run("one", {}, "").name, ProcessIdentity("a"), 600)
    settle(lease, 1, ask(lease, 1, ["a", "b"]), "refused", None)
    lease.release()
    with journal.database.writing() as connection:
        connection.execute(sa.update(request_totals).values(requests=5))
    kinds = [finding.kind for finding in examine(journal, storage).findings]
    assert "wrong-totals" in kinds
    repair(journal, storage, examine(journal, storage).findings)
    assert is_exact(journal, "one")
    journal.close()


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[tuple[Journal, Lease]]:
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    lease = journal.acquire(journal.create_run("long", {}, "").name, ProcessIdentity("a"), 600)
    journal.append(lease, "step", 1, "annotation", {"rows": 1})
    journal.set_status(lease, "running")
    RunFolder(str(tmp_path), "long").write_json("plan.json", {})
    yield journal, lease
    journal.close()


def look(journal: Journal, lease: Lease, storage: str, client: TestClient) -> None:
    """All that reads what models were asked, and that a round does before it asks."""
    show_run("long", storage, None)
    list_runs(storage, None)
    view_run("long", journal, storage, selection=False)
    assert client.get("/metrics").status_code == 200
    measure_answers(journal, ["long"], "model")
    log = open_log(lease, 9)
    log.find_start()
    log.longest_answer()
    log.open_shards({})


@contextmanager
def counted(journal: Journal) -> Iterator[list[int]]:
    """A list of one number: instructions of SQLite so far."""
    numbers, done = count(), [0]

    def watch(connection: Any, record: Any, proxy: Any) -> None:
        def step() -> None:
            done[0] = next(numbers)

        connection.set_progress_handler(step, 1)

    sa.event.listen(sa.pool.Pool, "checkout", watch)
    try:
        yield done
    finally:
        sa.event.remove(sa.pool.Pool, "checkout", watch)


def test_a_view_costs_the_same_however_many_requests_there_were(
    long_run: tuple[Journal, Lease], tmp_path: Path
) -> None:
    journal, lease = long_run
    token = Tokens(journal.database).create("admin")
    client = TestClient(
        create_api(parse_service({"storage": str(tmp_path)}), None, None), headers=bearer(token)
    )
    costs = []
    for batch in range(3):
        ids = ask(lease, 1, [f"{batch}-{at}" for at in range(5 if batch == 0 else 300)])
        settle(lease, 1, ids, "answered", 7)
        with counted(journal) as done:
            look(journal, lease, str(tmp_path), client)
        costs.append(done[0])
    assert summarize_requests(journal, "long")["requests"] == {"answered": 605}
    # The first look prepares statements and describes tables. A row that is read takes several
    # instructions, and there are 300 more of them.
    assert costs[2] - costs[1] < 300


def test_no_statement_of_a_view_or_a_round_reads_a_whole_table(
    long_run: tuple[Journal, Lease], tmp_path: Path
) -> None:
    journal, lease = long_run
    token = Tokens(journal.database).create("admin")
    client = TestClient(
        create_api(parse_service({"storage": str(tmp_path)}), None, None), headers=bearer(token)
    )
    asked: dict[str, Any] = {}

    def keep(connection: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            asked.setdefault(statement, given[0] if isinstance(given, list) else given)

    sa.event.listen(sa.Engine, "before_cursor_execute", keep)
    try:
        settle(lease, 1, ask(lease, 1, ["a", "b"]), "answered", 7)
        journal.record_dead_letters(lease, 1, [DeadLetter("z", "annotation", "no")])
        journal.labelled("long", last=1)
        journal.buried("long", before=2)
        look(journal, lease, str(tmp_path), client)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", keep)
    assert len(asked) > 40
    with journal.database.reading() as connection:
        plans = {
            statement: [
                str(row[-1])
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            ]
            for statement, given in asked.items()
        }
    scans = {
        statement: step
        for statement, steps in plans.items()
        for step in steps
        if step.startswith(tuple(f"SCAN {table}" for table in LARGE))
        and "open_shards" not in step  # of shards under way alone
    }
    assert scans == {}


def test_a_recount_gives_what_was_kept(journal: Journal, run: str) -> None:
    lease = journal.acquire(run, ProcessIdentity("a"), 600)
    settle(lease, 1, ask(lease, 1, ["a", f"{JUDGED}x"]), "answered", 7)
    query = sa.select(request_totals).where(
        (request_totals.c.run == run) & (request_totals.c.requests > 0)
    )
    query = query.order_by(request_totals.c.judged)

    def read() -> list[tuple[Any, ...]]:
        with journal.database.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]

    before = read()
    with journal.leased_transaction(lease) as connection:
        recount_requests(connection, run)
    assert read() == before
    with journal.leased_transaction(lease) as connection:
        connection.execute(sa.delete(requests).where(requests.c.run == run))
        assert has_wrong_sums(connection, run)
