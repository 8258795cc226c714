"""Entering a run that is there already."""

from pathlib import Path
from typing import Any

import pytest

from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunBusyError, UserError
from atgen_ray.runs.driver import check_entry, enter_run
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity, name_user

TREE: dict[str, Any] = {
    "name": "task",
    "data": {"pool": "pool.jsonl", "references": "answer"},
    "model": {"id": "some/model"},
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(f"sqlite:///{tmp_path}/atgen.db")


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_newer_keys(
    journal: Journal,
) -> None:
    old = dump_config(parse_config(TREE))
    del old["training"]["packing"], old["evaluation"], old["fork_from"]
    journal.create_run("task", old, "")
    enter_run(parse_config(TREE), journal)
    assert journal.events("task") == []
    with pytest.raises(UserError, match=r"exists with training\.rank = 16, now it is 8") as refused:
        enter_run(parse_config(TREE | {"training": {"rank": 8}}), journal)
    assert "--from task" in str(refused.value)


def test_keys_that_are_no_more_are_told(journal: Journal) -> None:
    old = dump_config(parse_config(TREE))
    journal.create_run("task", old | {"selector": "magic"}, "")
    with pytest.raises(UserError, match="exists with selector = 'magic', now it is None"):
        enter_run(parse_config(TREE), journal)


def test_what_changes_no_meaning_may_change_and_is_journalled(journal: Journal) -> None:
    enter_run(parse_config(TREE), journal)
    other = TREE | {
        "engine": {"batch_size": 8},
        "training": {"workers": 2},
        "stopping": {"rounds": 9},
    }
    enter_run(parse_config(other), journal, "token of anna")
    (event,) = journal.events("task")
    assert event.kind == "changed"
    assert event.payload == {
        "by": "token of anna",
        "changes": [
            {"key": "engine.batch_size", "before": 32, "now": 8},
            {"key": "stopping.rounds", "before": 5, "now": 9},
            {"key": "training.workers", "before": 1, "now": 2},
        ],
    }
    enter_run(parse_config(other), journal)
    assert len(journal.events("task")) == 1  # nothing is new
    assert (
        journal.run("task").config["engine"]["batch_size"] == 8
    )  # what a resume over HTTP goes on with
    enter_run(parse_config(TREE), journal)
    assert journal.events("task")[-1].payload["by"] == name_user()


def test_nothing_changes_under_a_controller(journal: Journal) -> None:
    enter_run(parse_config(TREE), journal)
    lease = journal.acquire("task", ProcessIdentity("controller"), 60)
    enter_run(parse_config(TREE | {"storage": "elsewhere"}), journal)  # another way to say where
    with pytest.raises(RunBusyError, match="stop it first"):
        enter_run(parse_config(TREE | {"stopping": {"rounds": 9}}), journal)
    assert journal.run("task").config["stopping"]["rounds"] == 5
    lease.release()
    enter_run(parse_config(TREE | {"stopping": {"rounds": 9}}), journal)


def test_looking_enters_nothing(journal: Journal) -> None:
    check_entry(parse_config(TREE), journal)
    assert journal.runs() == []
