"""Entering a run that is there already."""

from pathlib import Path

import pytest

from atgen_ray.config_source import dump_config, parse_config
from atgen_ray.driver import enter_run
from atgen_ray.errors import UserError
from atgen_ray.journal import Journal

TREE = {"name": "task", "data": {"pool": "pool.jsonl", "references": "answer"}, "model": {"id": "some/model"}}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(f"sqlite:///{tmp_path}/atgen.db")


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_newer_keys(journal: Journal) -> None:
    old = dump_config(parse_config(TREE))
    del old["training"]["packing"], old["evaluation"]
    journal.create_run("task", old, "")
    enter_run(parse_config(TREE), journal)
    with pytest.raises(UserError, match=r"exists with training\.packing = True, now it is False"):
        enter_run(parse_config(TREE | {"training": {"packing": False}}), journal)


def test_keys_that_are_no_more_are_told(journal: Journal) -> None:
    old = dump_config(parse_config(TREE))
    journal.create_run("task", old | {"selector": "magic"}, "")
    with pytest.raises(UserError, match="exists with selector = 'magic', now it is None"):
        enter_run(parse_config(TREE), journal)
