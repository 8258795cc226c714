"""What a fine-tuning job tells of its run, from the run's journal and folder alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atgen_ray.config import ServiceConfig
from atgen_ray.config.usage import UsageConfig
from atgen_ray.core.records import Annotation
from atgen_ray.serving.api_files import FileDesk
from atgen_ray.serving.batch_rows import count_questions
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.label_files import RESULTS
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.quotas import UsageBook
from atgen_ray.serving.tuning import TuningDesk
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tuning_jobs import TuningJobs

ROOT = Caller("t", "admin", "root")
ANN = Caller("u", "program", "ann", scopes=("runs",))
BEN = Caller("v", "program", "ben", scopes=("runs",))
ID = "0123456789ab"
RUN = f"ft-{ID}"
SCORE = {"rougeL": {"mean": 0.4, "low": 0.3, "high": 0.5, "count": 8}}


class Desk:
    """The desk of a service without Ray, and one job of which a controller has written."""

    def __init__(self, storage: Path, journal: Journal, method: dict[str, Any] | None) -> None:
        service = ServiceConfig(storage=str(storage))
        self.files = FileDesk(journal, service.storage, service.limits, count_questions)
        control = RunManager(service, journal)
        book = UsageBook(journal.database, UsageConfig())
        self.jobs = TuningDesk(service, journal, control, None, self.files, book)
        self.journal = journal
        self.folder = RunFolder(service.storage, RUN)
        tree = {
            "name": RUN,
            "seed": 7,
            "prompt": {"system": "Be brief."},
            "selection": {"strategy": "huds", "count": 2},
            "annotator": {"type": "human"},
            "stopping": {"rounds": 2, "labels": 4, "dollars": None},
            "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-4},
        }
        asked: dict[str, Any] = {"model": "tiny", "training_file": "file-1"}
        asked |= {"method": method} if method else {}
        journal.create_run(RUN, tree, "")
        TuningJobs(journal).enter(f"ftjob-{ID}", "ann", None, RUN, asked, tree)
        self.lease: Lease = journal.acquire(RUN, ProcessIdentity("tests"), 60)
        journal.set_status(self.lease, "running")

    def train(self, round: int) -> None:
        told = {"tokens": 100, "steps": round, "losses": [{"loss": 1.5}]}
        self.folder.write_json(f"rounds/{round:03}/training.json", told)
        self.journal.append(self.lease, "step", round, "training")

    def end(self, status: Any, message: str) -> None:
        self.journal.append(self.lease, status, payload={"message": message})
        self.journal.set_status(self.lease, status)
        self.lease.release()

    @property
    def job(self) -> Any:
        return self.jobs.show(f"ftjob-{ID}", ANN)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = open_journal(str(tmp_path), None)
    yield journal
    journal.close()


ACTIVE = {"type": "active", "active": {"budget": {"labels": 4}, "annotator": "staff"}}


def test_an_active_job_follows_its_run_to_the_labelled_rows(
    journal: Journal, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, journal, ACTIVE)
    assert (desk.job.status, desk.job.active.state) == ("running", "running")
    rows = [{"id": f"e{at}", "text": f"q{at}"} for at in range(3)]
    desk.folder.write_table("pool.parquet", pa.Table.from_pylist(rows))
    journal.append(desk.lease, "awaiting-human", 1)
    assert (desk.job.status, desk.job.active.state) == ("running", "waiting for people")
    for at, round in (("e0", 0), ("e1", 1), ("e2", 2)):
        label = Annotation(at, f"a{at}", "human/ben", 0.5)
        journal.record_annotations(desk.lease, round, [label])
    journal.append(desk.lease, "step", 1, "selection", {"rows": 2})
    journal.append(desk.lease, "step", 1, "annotation")
    for round in (1, 2):
        desk.train(round)
    row = {"round": 2, "metrics": {}, "audit_metrics": SCORE}
    desk.folder.write_json("metrics.json", [row | {"round": 1, "audit_metrics": {}}, row])
    journal.append(desk.lease, "step", 2, "evaluation")
    assert desk.job.fine_tuned_model is None
    with pytest.raises(ApiError, match="unknown"):  # not before the job has succeeded
        desk.files.find(f"file-labels-{ID}", ANN)
    desk.end("finished", "done")
    job = desk.job
    assert (job.status, job.fine_tuned_model) == ("succeeded", f"ft:tiny::{ID}")
    assert (job.trained_tokens, job.method["active"]["annotator"]) == (600, "staff")
    active = job.active
    assert (active.labels, active.audit_labels, active.round, active.dollars) == (3, 1, 2, 1.5)
    assert active.score.model_dump() == SCORE["rougeL"] | {
        "metric": "rougeL",
        "round": 2,
        "measured_on": "audit",
    }
    messages = [event["message"] for event in desk.jobs.events(f"ftjob-{ID}", ANN)]
    assert messages[::-1] == [
        "round 1: waiting for people",
        "round 1: 2 examples were picked",
        "round 1: 1 labels",
        "round 1: an adapter was trained",
        "round 2: an adapter was trained",
        "round 2: rougeL is 0.400 (0.300 to 0.500)",
        "finished: done",
    ]
    last, first = desk.jobs.checkpoints(f"ftjob-{ID}", ANN)
    assert last["fine_tuned_model_checkpoint"] == job.fine_tuned_model
    assert first["fine_tuned_model_checkpoint"] == f"tiny:{RUN}-1"
    (named,) = job.result_files
    chats = [json.loads(line)["messages"] for line in desk.files.read(named, ANN)]
    assert [chat[-1]["content"] for chat in chats] == ["ae0", "ae1", "ae2"]
    assert [turn["role"] for turn in chats[0]] == ["system", "user", "assistant"]
    assert [file.id for file in desk.files.list(ANN, RESULTS)] == [named]
    assert desk.files.list(ANN, None) == desk.files.list(BEN, RESULTS) == []
    with pytest.raises(ApiError, match="unknown"):
        desk.files.read(named, BEN)
    with pytest.raises(ApiError, match="expected another file"):
        desk.files.remove(named, ROOT)


def test_a_supervised_job_has_no_state_of_labelling_and_no_results(
    journal: Journal, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, journal, None)
    desk.train(1)
    desk.end("finished", "done")
    job = desk.job
    assert (job.status, job.active, job.result_files) == ("succeeded", None, [])
    assert (job.trained_tokens, job.method["type"]) == (300, "supervised")
    (checkpoint,) = desk.jobs.checkpoints(f"ftjob-{ID}", ANN)
    assert checkpoint["id"] == f"ftckpt-{ID}"
    assert checkpoint["fine_tuned_model_checkpoint"] == f"ft:tiny::{ID}"
    told = [event["message"] for event in desk.jobs.events(f"ftjob-{ID}", ANN)]
    assert told == ["finished: done", "step: training"]


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        ("stopped", "9 of 10 examples have no label", "failed"),
        ("stopped", "stopped on request", "cancelled"),
        ("finished", "the budget bought no label", "failed"),
        ("failed", "a node died", "failed"),
    ],
)
def test_a_job_without_an_adapter_has_failed_unless_somebody_stopped_it(
    journal: Journal, tmp_path: Path, status: str, message: str, shown: str
) -> None:
    desk = Desk(tmp_path, journal, ACTIVE)
    desk.end(status, message)
    job = desk.job
    assert (job.status, job.fine_tuned_model, job.result_files) == (shown, None, [])
    assert (job.error or {}).get("message") == (message if shown == "failed" else None)
