"""Candidates of a round: which examples of the pool may be selected, and how few may be drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import POOL_SCHEMA
from atgen_ray.runs.state import MOST_CANDIDATES, RunState, check_pool_size
from atgen_ray.store.journal import open_journal
from atgen_ray.store.run_folder import RunFolder

IDS = [f"{position * 7919 % 1000:03d}" for position in range(50)]  # in no order
DUPLICATES = {IDS[3]: IDS[0], IDS[17]: IDS[1]}
OPEN = [id_ for id_ in IDS if id_ not in DUPLICATES]


def make_config(storage: Path, candidates: int | None) -> RunConfig:
    tree: dict[str, Any] = {
        "name": "task",
        "storage": str(storage),
        "model": {"id": "m"},
        "seed": 42,
    }
    tree |= {"data": {"pool": "p.jsonl", "references": "a"}}
    return parse_config(tree | {"selection": {"candidates": candidates}})


@pytest.fixture
def open_state(tmp_path: Path) -> Callable[[int | None], RunState]:
    """The state of a run with a pool of `IDS`, of which two are near-duplicates."""
    folder = RunFolder(str(tmp_path), "task")
    examples = pa.table(
        {
            "id": IDS,
            "row": range(len(IDS)),
            "text": IDS,
            "content": IDS,
            "duplicate_of": [DUPLICATES.get(id_) for id_ in IDS],
        },
        POOL_SCHEMA,
    )
    folder.write_table("pool.parquet", examples)
    journal = open_journal(str(tmp_path))

    def build(candidates: int | None) -> RunState:
        config = make_config(tmp_path, candidates)
        journal.create_run("task", dump_config(config), "")
        return RunState(config, journal, folder)

    return build


@pytest.mark.parametrize("limit", [None, len(OPEN), len(OPEN) + 1])
def test_all_candidates_are_in_the_order_of_the_pool(
    open_state: Callable[[int | None], RunState], limit: int | None
) -> None:
    assert open_state(limit).candidates(1).to_pylist() == OPEN


@pytest.mark.parametrize("limit", [1, 10, len(OPEN) - 1])
def test_candidates_are_drawn_anew_in_each_round(
    open_state: Callable[[int | None], RunState], limit: int
) -> None:
    state = open_state(limit)
    for round in (1, 2):
        drawn = sorted(OPEN, key=lambda id_: mix_seed(42, "candidates", round, id_))[:limit]
        assert state.candidates(round).to_pylist() == drawn


def test_a_pool_too_large_for_one_selection_is_refused(tmp_path: Path) -> None:
    check_pool_size(make_config(tmp_path, None), MOST_CANDIDATES)
    check_pool_size(make_config(tmp_path, 1000), MOST_CANDIDATES + 1)
    with pytest.raises(UserError, match=r"selection.candidates .* data.limit") as refused:
        check_pool_size(make_config(tmp_path, None), MOST_CANDIDATES + 1)
    assert "\n" not in str(refused.value)
