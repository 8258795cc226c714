"""A journal with a run under way, as each release has left it, is taken on by the code of today."""

from pathlib import Path

import pytest
from helpers.older_journal import age_journal

from atgen_ray.config import StoppingConfig
from atgen_ray.core.records import Annotation, DeadLetter
from atgen_ray.store import migrations
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import NANO, Entry, Ledger
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.step_outputs import FILES, PLACE


@pytest.mark.parametrize("revision", migrations.list_revisions()[:-1])
def test_a_run_under_way_goes_on_from_every_revision(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "atgen.db"
    journal = Journal(f"sqlite:///{path}")
    run = journal.create_run("a", {"seed": 1}, "").name
    lease = journal.acquire(run, ProcessIdentity("x"), 0.01)  # this process lives on
    journal.set_status(lease, "running")
    files = {"pool.parquet": {"size": 1, "sha256": "0"}}
    journal.append(lease, "step", None, "pool", {"rows": 2, PLACE: ".steps/1", FILES: files})
    label = Annotation("e1", "einé", "model", 0.0)
    journal.record_annotations(lease, 1, [label])
    journal.record_dead_letters(lease, 1, [DeadLetter("e2", "annotation", "refused")])
    money = Ledger("a", StoppingConfig(dollars=9))
    with journal.leased_transaction(lease) as connection:
        money.reserve(connection, 1, "model", [Entry("k1", "e1", NANO), Entry("k3", "e3", NANO)])
        money.settle(connection, {"k1": NANO // 2})
    before = journal.total("a")
    journal.close()  # killed: the lease is not released, and has expired

    age_journal(path, revision)
    journal = Journal(f"sqlite:///{path}")
    after = journal.total("a")
    assert (after.status, after.labels, after.dollars) == ("running", 1, before.dollars)
    assert journal.annotations("a") == [(1, label)]
    [pool] = journal.steps("a")
    assert (pool.step, pool.payload) == ("pool", {"rows": 2})
    new = journal.acquire("a", ProcessIdentity("y"), 60)
    assert new.epoch == lease.epoch + 1
    assert journal.record_annotations(new, 1, [label, Annotation("e3", "t", "model", 0.0)]) == 1
    with journal.leased_transaction(new) as connection:
        # Half a dollar was paid and one is held: they count against the budget still.
        entries = [Entry(f"n{at}", f"n{at}", NANO) for at in range(20)]
        assert money.reserve(connection, 2, "model", entries)[0] == 7
    journal.close()
