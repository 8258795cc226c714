"""The doctor names what does not agree, mends what is safe, and touches nothing else."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.annotation_desk import quiet
from helpers.command_line import call

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import Annotation
from atgen_ray.runs.controller import Controller
from atgen_ray.runs.doctor import examine
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import StepOutputs
from atgen_ray.store.tables import controllers, events, totals

ADAPTER = "rounds/001/adapter"
ELSEWHERE = {"host": "far-away", "pid": 2**22 + 1, "started": 0.0, "machine": "another"}


@dataclass
class Patient:
    """A run with a pool, a label and an adapter."""

    root: Path
    config: RunConfig
    journal: Journal
    folder: RunFolder

    def lease(self, **owner: Any) -> Lease:
        return self.journal.acquire("demo", ProcessIdentity("us", **owner), 60, takeover=True)

    def controller(self, lease: Lease) -> Controller:
        return Controller(self.config, self.journal, lease, self.folder, ProgressTracker(), quiet)

    def train(self, round: int) -> None:
        lease = self.lease()

        def make(_: object, out: RunFolder) -> None:
            with out.publish(f"rounds/{round:03d}/adapter") as output:
                (output / "adapter_config.json").write_text("{}")
                (output / "adapter_model.safetensors").write_bytes(b"weights")

        controller = self.controller(lease)
        controller.committer.commit(round, "training", f"rounds/{round:03d}/adapter", make)
        lease.release()

    def kinds(self, deep: bool = False) -> list[str]:
        return [each.kind for each in examine(self.journal, str(self.root), None, deep).findings]

    def call(self, *arguments: str) -> Any:
        return call("doctor", *arguments, "--storage", str(self.root))


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    tree = {"name": "demo", "data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}}
    config = parse_config(tree | {"storage": str(tmp_path)})
    journal = Journal(f"sqlite:///{tmp_path / 'atgen.db'}")
    journal.create_run("demo", dump_config(config), "")
    patient = Patient(tmp_path, config, journal, RunFolder(str(tmp_path), "demo"))
    lease = patient.lease()
    label = Annotation("e1", "yes", "gold", 0.5)
    journal.record_annotations(lease, 1, [label])

    def make(_: object, out: RunFolder) -> None:
        out.write_jsonl("rounds/001/annotations.jsonl", [{"id": "e1"}])

    patient.controller(lease).committer.commit(
        1, "annotation", "rounds/001/annotations.jsonl", make
    )
    row = {"round": 1, "input": "?", "id": "e1", "text": "yes", "annotator": "gold", "dollars": 0.5}
    patient.folder.write_jsonl("labeled.jsonl", [row])
    patient.train(1)
    yield patient
    journal.close()


def write(patient: Patient, rel: str, text: str = "x") -> None:
    path = Path(patient.folder.root, rel)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def execute(patient: Patient, statement: Any) -> None:
    with patient.journal.database.writing() as connection:
        connection.execute(statement)


def leave_unnamed(patient: Patient) -> None:
    """A step is recorded, and its controller dies before it moves the outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepOutputs, "publish", lambda *_: None)
        patient.train(2)


def die(patient: Patient) -> None:
    lease = patient.lease(**ELSEWHERE)
    patient.journal.set_status(lease, "running")
    execute(patient, sa.update(controllers).values(expires=0.0))


def label(patient: Patient) -> None:
    """A label of a committed round that labeled.jsonl lacks."""
    lease = patient.lease()
    patient.journal.record_annotations(lease, 1, [Annotation("e2", "no", "gold", 0.5)])
    lease.release()


def restart(patient: Patient) -> None:
    patient.folder.write_json("versions.json", {"attempts": [{"attempt": 99}]})


DAMAGES: dict[str, tuple[Callable[[Patient], Any], list[str]]] = {
    "nothing": (lambda patient: None, []),
    "an adapter is gone": (lambda patient: patient.folder.remove(ADAPTER), ["missing-output"]),
    "a file is cut short": (
        lambda patient: write(patient, f"{ADAPTER}/adapter_model.safetensors", "w"),
        ["changed-output"],
    ),
    "an event is gone": (
        lambda patient: execute(patient, sa.delete(events).where(events.c.sequence == 1)),
        ["missing-event", "orphan-output"],
    ),
    "a controller died": (die, ["dead-controller"]),
    "a label is lost": (
        lambda patient: write(
            patient,
            "labeled.jsonl",
            patient.folder.read_text("labeled.jsonl")
            + json.dumps({"id": "e9", "annotator": "gold", "round": 2, "text": "", "dollars": 2})
            + "\n",
        ),
        ["lost-label"],
    ),
    "an older journal": (restart, ["older-journal"]),
    "a folder of no run": (
        lambda patient: RunFolder(str(patient.root), "other").write_text("x", ""),
        ["unknown-run"],
    ),
}
MENDED: dict[str, tuple[Callable[[Patient], Any], list[str]]] = {
    "not at its name": (leave_unnamed, ["unnamed-output"]),
    "half a write": (lambda patient: write(patient, ".staging/1-a/f00"), ["leftover"]),
    "half a step": (lambda patient: write(patient, ".steps/1-a/002-training/x"), ["leftover"]),
    "work of a step that is done": (
        lambda patient: write(patient, "rounds/001/training-1-a/checkpoint-1/x"),
        ["leftover"],
    ),
    "an output of no step": (
        lambda patient: write(patient, "rounds/002/adapter/x"),
        ["orphan-output"],
    ),
    "totals": (
        lambda patient: execute(patient, sa.update(totals).values(labels=7)),
        ["wrong-totals"],
    ),
    "labels of the user": (label, ["stale-labels"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named_and_left_alone(patient: Patient, damage: str) -> None:
    harm, kinds = DAMAGES[damage]
    harm(patient)
    before = patient.folder.list_sizes()
    assert patient.kinds() == kinds
    done = patient.call("--json")
    assert done.status == (1 if kinds else 0)
    told = json.loads(done.out)
    assert [finding["kind"] for finding in told["findings"]] == kinds
    assert all(finding["what"] and finding["do"] for finding in told["findings"])
    assert patient.folder.list_sizes() == before


@pytest.mark.parametrize("damage", MENDED)
def test_what_is_safe_is_mended(patient: Patient, damage: str) -> None:
    harm, kinds = MENDED[damage]
    write(patient, "pool.parquet")
    patient.folder.write_table("pool.parquet", make_pool())
    execute(patient, sa.insert(events).values(pool_event()))
    harm(patient)
    assert patient.kinds() == kinds
    labels = patient.journal.annotations("demo")
    done = patient.call("demo", "--repair")
    assert done.status == 0, done.out
    assert "repaired: demo: " in done.out
    assert patient.kinds(deep=True) == []
    assert patient.journal.annotations("demo") == labels
    assert patient.folder.exists(ADAPTER)


def make_pool() -> Any:
    import pyarrow as pa

    from atgen_ray.core.records import POOL_SCHEMA

    rows = [
        {"id": id_, "row": row, "text": "?", "content": id_} for row, id_ in enumerate(("e1", "e2"))
    ]
    return pa.Table.from_pylist(rows, POOL_SCHEMA)


def pool_event() -> dict[str, Any]:
    """As an older version entered it: without files and digests."""
    payload = {"output": "pool.parquet", "rows": 2}
    return {"run": "demo", "sequence": 3, "kind": "step", "round": 0, "step": "pool",
            "payload": payload, "time": 0.0}  # fmt: skip


def test_what_was_removed_on_purpose_is_not_missed(patient: Patient) -> None:
    patient.journal.note_removed("demo", [ADAPTER])
    patient.folder.remove(ADAPTER)
    assert patient.kinds() == []


def test_other_bytes_of_the_same_size_are_found_deep(patient: Patient) -> None:
    write(patient, f"{ADAPTER}/adapter_model.safetensors", "WEIGHTS")
    assert patient.kinds() == []
    assert patient.kinds(deep=True) == ["changed-output"]


def test_what_an_older_version_left_is_not_verifiable(patient: Patient) -> None:
    patient.folder.write_table("pool.parquet", make_pool())
    execute(patient, sa.insert(events).values(pool_event()))
    found = examine(patient.journal, str(patient.root))
    assert (found.findings, found.not_verifiable, found.runs) == ([], 1, 1)


def test_unfinished_work_of_a_step_under_way_is_kept(patient: Patient) -> None:
    write(patient, "rounds/002/training-9-a/checkpoint-1/x")
    write(patient, "rounds/002/features.parts/0000/x.parquet")
    assert patient.kinds() == []


def test_a_run_that_is_driven_is_looked_at_and_not_mended(patient: Patient) -> None:
    execute(patient, sa.update(totals).values(labels=7))
    write(patient, ".staging/now/x")
    patient.lease(**ELSEWHERE)
    assert patient.kinds() == ["wrong-totals"]
    done = patient.call("--repair")
    assert done.status == 2
    assert "run 'demo' is driven by process" in done.err
    assert patient.kinds() == ["wrong-totals"]


def test_a_run_that_is_not_there_is_one_line(patient: Patient) -> None:
    done = patient.call("dmo")
    assert (done.status, done.out) == (2, "")
    assert "did you mean 'demo'" in done.err
