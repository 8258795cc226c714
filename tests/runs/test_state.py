"""What a run knows of itself: outputs that its journal names are there, or one line says which is
not.
"""

from pathlib import Path

import pytest

from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import OutputMissingError
from atgen_ray.core.stored import Stored
from atgen_ray.runs.state import RunState
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder


@pytest.fixture
def parts(tmp_path: Path) -> tuple[RunState, Journal, Lease, RunFolder]:
    """A run with a lease and an empty folder."""
    tree = {"name": "task", "data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}}
    config = parse_config(tree | {"storage": str(tmp_path)})
    journal, folder = open_journal(str(tmp_path)), RunFolder(str(tmp_path), "task")
    journal.create_run("task", dump_config(config), "")
    return (
        RunState(config, journal, folder),
        journal,
        journal.acquire("task", ProcessIdentity("controller"), 60),
        folder,
    )


def train(journal: Journal, lease: Lease, folder: RunFolder, round: int) -> str:
    """A round's adapter and its journal entry; where the adapter is."""
    with folder.publish(f"rounds/{round:03d}/adapter") as output:
        (output / "adapter_config.json").touch()
    journal.append(lease, "step", round, "training")
    return folder.path(f"rounds/{round:03d}/adapter")


def test_a_missing_adapter_is_never_replaced_by_an_earlier_one(
    parts: tuple[RunState, Journal, Lease, RunFolder],
) -> None:
    state, journal, lease, folder = parts
    assert state.adapter(3) is None  # nothing was trained: the base model
    first, second = train(journal, lease, folder, 1), train(journal, lease, folder, 2)
    assert path_of(state.adapter(1)) == first
    assert path_of(state.adapter(3)) == second  # round 3 had nothing to train on
    folder.remove("rounds/002/adapter")
    with pytest.raises(OutputMissingError) as missing:
        state.adapter(3)
    said = str(missing.value)
    assert said.startswith(
        f"{second} is missing, although the journal has the training of round 2 of run 'task'"
    )
    assert "backup" in said
    assert "--from task" in said
    assert "\n" not in said
    assert path_of(state.adapter(1)) == first


def test_a_missing_adapter_is_not_the_base_model(
    parts: tuple[RunState, Journal, Lease, RunFolder],
) -> None:
    state, journal, lease, folder = parts
    train(journal, lease, folder, 1)
    folder.remove("rounds/001/adapter")
    with pytest.raises(OutputMissingError):
        state.adapter(1)


def test_outputs_of_the_model_that_are_gone_are_not_taken_for_none(
    parts: tuple[RunState, Journal, Lease, RunFolder],
) -> None:
    state, journal, lease, folder = parts
    rel = "rounds/001/features.parquet"
    assert not state.has_output(1, "generation", rel)
    journal.append(lease, "step", 1, "generation")
    with pytest.raises(OutputMissingError, match="generation of round 1"):
        state.has_output(1, "generation", rel)
    folder.write_json(rel, {})
    assert state.has_output(1, "generation", rel)


def path_of(stored: Stored | None) -> str:
    assert stored is not None
    return str(stored.local())
