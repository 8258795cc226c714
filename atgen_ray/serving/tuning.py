"""Fine-tuning jobs as runs of this service.

A supervised job has all its labels in its file, and no selection: its run takes every row in one
round, with the file's own answers as annotator, and trains once. An active job has its labels made
(`serving/active_jobs.py`). So both are durable as any run: kill anything, and they go on. What the
API calls the state of a job is the state of its run.
"""

from pathlib import PurePosixPath
from typing import Any
from uuid import uuid4

from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.serving.active_jobs import (
    describe_active,
    name_source,
    read_scores,
    tell_event,
)
from atgen_ray.serving.api_files import FileDesk, owner_of
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.label_files import name_results
from atgen_ray.serving.replicas.adapter_directory import AdapterDirectory
from atgen_ray.serving.runs import RunManager
from atgen_ray.serving.schemas.fine_tuning import JobBody, TuningBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.quotas import UsageBook
from atgen_ray.serving.tuned_names import name_model, name_run
from atgen_ray.serving.tuning_runs import LEARNING_RATE, TuningRuns
from atgen_ray.store.events import WARNING, Event, find_last_round
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tuning_jobs import TuningJob, TuningJobs
from atgen_ray.store.usage import enter_trained, price_tokens

# Statuses of a run that has ended, and those of its job.
ENDS = {"finished": "succeeded", "failed": "failed"}
RESUMED = "resumed"  # why nothing halts a job that was paused
OVER = ("succeeded", "failed", "cancelled")


class TuningDesk:
    """Takes, shows and halts the jobs of one service."""

    def __init__(
        self,
        service: ServiceConfig,
        journal: Journal,
        control: RunManager,
        directory: AdapterDirectory | None,
        files: FileDesk,
        book: UsageBook,
    ) -> None:
        self._service = service
        self._journal = journal
        self._control = control
        self._runs = TuningRuns(service, directory.base if directory else None, files)
        self._book = book
        self._jobs = TuningJobs(journal)

    def create(self, body: TuningBody, key: str | None, caller: Caller) -> JobBody:
        """Start a job; the same key again gives the same job, and starts it where that was cut
        short.

        Raises:
            ApiError: 400, the model or a file cannot be used; 404, there is no such file; 409, the
                key is that of another request; 429, a quota does not allow it.
        """
        asked = body.model_dump(mode="json", exclude_none=True)
        job = self._jobs.find_by_key(caller.name, key) if key else None
        if job is None:
            id = uuid4().hex[:12]
            run = name_run((body.suffix or "").lower(), id)
            tree = self._runs.configure(body, run, caller)
            price = self._book.config.find_price(body.model).training
            self._check_quota(body, tree, price, caller)
            job = self._jobs.enter(f"ftjob-{id}", caller.name, key, run, asked, tree, price)
        if job.asked != asked:
            raise ApiError(409, "this Idempotency-Key was sent with another request")
        if not self._journal.has_run(job.run) and job.halt in (None, RESUMED):
            self._begin(job, caller)
        return self._show(job)

    def _check_quota(
        self, body: TuningBody, tree: dict[str, Any], price: float, caller: Caller
    ) -> None:
        """Check that the caller's quota leaves room for this job and those that go on; raises
        ApiError 429.
        """
        enter_trained(self._journal.database, self._service.storage)
        if not self._book.find_quota(caller).is_set:
            return
        tokens = self._runs.count_expected(body, tree)
        nano = price_tokens(tokens, price)
        for job in self._jobs.list(caller.name):
            if self._status(job) not in OVER:
                going = TuningBody.model_validate(job.asked)
                more = self._runs.count_expected(going, job.tree) - self._count_trained(job)
                more = max(more, 0)
                tokens += more
                nano += price_tokens(more, job.price or 0.0)
        self._book.check(caller, tokens, nano)

    def _begin(self, job: TuningJob, caller: Caller) -> None:
        try:
            self._control.start(job.tree, caller)
        except StorageUnavailableError:
            raise
        except (UserError, ApiError) as error:
            if not self._journal.has_run(job.run):
                self._jobs.remove(job.id)
            if type(error) is UserError:  # others have a status of their own
                raise name_source(error) from None
            raise

    def find(self, id: str, caller: Caller) -> TuningJob:
        """Return a job that the caller may see; raises ApiError 404."""
        job = self._jobs.find(id, owner_of(caller))
        if job is None or not caller.may_see(job.run):
            raise ApiError(404, f"fine-tuning job {id[:80]!r} is unknown")
        return job

    def show(self, id: str, caller: Caller) -> JobBody:
        """Return a job; raises ApiError 404."""
        return self._show(self.find(id, caller))

    def list_jobs(self, caller: Caller) -> list[TuningJob]:
        """Return the caller's jobs, the newest first."""
        return [job for job in self._jobs.list(owner_of(caller)) if caller.may_see(job.run)]

    def describe(self, job: TuningJob) -> JobBody:
        """Return a job in the API's form."""
        return self._show(job)

    def halt(self, id: str, why: str, caller: Caller) -> JobBody:
        """Pause or cancel a job, as `why` says; its run is asked to stop.

        Raises:
            ApiError: 404, there is none; 400, it is over.
        """
        job = self.find(id, caller)
        status = self._status(job)
        if status in OVER and (status, why) != ("cancelled", "cancelled"):
            raise ApiError(400, f"job '{id}' has {status}, expected one that goes on")
        self._jobs.halt(id, why)
        if self._journal.has_run(job.run):
            self._control.stop(job.run)
        return self.show(id, caller)

    def resume(self, id: str, caller: Caller) -> JobBody:
        """Go on with a job that was paused.

        Raises:
            ApiError: 404, there is none; 400, it was not paused.
        """
        job = self.find(id, caller)
        if job.halt != "paused" or self._status(job) in OVER:
            raise ApiError(400, f"job '{id}' is {self._status(job)}, expected a paused one")
        if self._journal.has_run(job.run):
            self._control.resume(job.run)
        else:
            self._begin(job, caller)
        self._jobs.halt(id, RESUMED)
        return self.show(id, caller)

    def events(self, id: str, caller: Caller) -> list[dict[str, Any]]:
        """Return what happened in a job, the newest first; raises ApiError 404."""
        job = self.find(id, caller)
        if not self._journal.has_run(job.run):
            return []
        events = self._journal.events(job.run)[::-1]
        found = [_show_event(job, event) for event in events]
        if _is_active(job):
            labels = self._journal.count_labels(job.run)
            scores = read_scores(job, self._service.storage)
            for shown, event in zip(found, events, strict=True):
                shown["message"], told = tell_event(event, labels, scores)
                shown["data"] |= told
        return found

    def checkpoints(self, id: str, caller: Caller) -> list[dict[str, Any]]:
        """Return the adapters that the job has trained, the last one first; raises ApiError 404."""
        job = self.find(id, caller)
        found = []
        for round, result in self._read_trainings(job).items():
            metrics: dict[str, Any] = {"step": result["steps"]}
            if result["losses"]:
                metrics["train_loss"] = result["losses"][-1]["loss"]
            place = f"-{round}" if _is_active(job) else ""
            base = TuningBody.model_validate(job.asked).model
            found.append(
                {
                    "id": f"ftckpt-{job.id.removeprefix('ftjob-')}{place}",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": int(result["time"]),
                    "fine_tuned_model_checkpoint": f"{base}:{job.run}-{round}",
                    "fine_tuning_job_id": job.id,
                    "step_number": result["steps"],
                    "metrics": metrics,
                }
            )
        if found:
            found[-1]["fine_tuned_model_checkpoint"] = self._model_of(job)
        return found[::-1]

    def _status(self, job: TuningJob) -> str:
        if not self._journal.has_run(job.run):
            return "queued" if job.halt in (None, RESUMED) else job.halt
        status = self._journal.describe_status(self._journal.run(job.run))
        if status == "stopped":
            # The run is called stopped until its new controller has the lease.
            if job.halt == RESUMED and self._control.goes_on(job.run):
                return "queued"
            if job.halt is None and _is_active(job) and self._gave_up(job):
                return "failed"
            return job.halt if job.halt == "paused" else "cancelled"
        if status == "finished" and not self._has_trained(job):
            return "failed"
        return ENDS.get(status, "queued" if status == "created" else "running")

    def _has_trained(self, job: TuningJob) -> bool:
        with self._journal.database.reading() as connection:
            return bool(find_last_round(connection, job.run, "training"))

    def _gave_up(self, job: TuningJob) -> bool:
        """Return whether a run has stopped by itself, as one whose annotator labels too little."""
        last = self._last_event(job)
        return last is not None and not str(last.payload.get("message")).startswith("stopped on")

    def _show(self, job: TuningJob) -> JobBody:
        body = TuningBody.model_validate(job.asked)
        status = self._status(job)
        training = job.tree["training"]
        chosen = {
            "n_epochs": training["epochs"],
            "batch_size": training["batch_size"],
            "learning_rate_multiplier": training["learning_rate"] / LEARNING_RATE,
        }
        done = status == "succeeded"
        method = "active" if _is_active(job) else "supervised"
        asked = (job.asked.get("method") or {}).get(method) or {}
        state = ""
        if self._journal.has_run(job.run):
            state = self._journal.describe_status(self._journal.run(job.run))
        last = self._last_event(job) if status in OVER else None
        return JobBody(
            id=job.id,
            created_at=int(job.created),
            finished_at=int(last.time) if last is not None else None,
            model=body.model,
            fine_tuned_model=self._model_of(job) if done else None,
            result_files=[name_results(job)] if done and _is_active(job) else [],
            status=status,
            training_file=body.training_file,
            validation_file=body.validation_file,
            hyperparameters=chosen,
            method={"type": method, method: asked | {"hyperparameters": chosen}},
            trained_tokens=self._count_trained(job) or None,
            error=_show_error(last) if status == "failed" else None,
            seed=job.tree["seed"],
            metadata=body.metadata,
            user_provided_suffix=body.suffix,
            active=describe_active(job, state, self._journal, self._service.storage),
        )

    def _model_of(self, job: TuningJob) -> str | None:
        return name_model(TuningBody.model_validate(job.asked).model, job.run)

    def _last_event(self, job: TuningJob) -> Event | None:
        events = self._journal.events(job.run) if self._journal.has_run(job.run) else []
        return events[-1] if events else None

    def _count_trained(self, job: TuningJob) -> int:
        """Return how many tokens the job has trained on by now, those of each epoch."""
        trainings = self._read_trainings(job).values()
        return int(sum(each["tokens"] for each in trainings) * job.tree["training"]["epochs"])

    def _read_trainings(self, job: TuningJob) -> dict[int, dict[str, Any]]:
        """Return by round what the training told, with its time, once it is committed."""
        if not self._journal.has_run(job.run):
            return {}
        folder = RunFolder(self._service.storage, job.run)
        found: dict[int, dict[str, Any]] = {}
        for (round, step), event in self._journal.committed_steps(job.run).items():
            path = str(PurePosixPath(round_folder(round or 0), "training.json"))
            if round and step == "training" and folder.exists(path):
                found[round] = folder.read_json(path) | {"time": event.time}
        return dict(sorted(found.items()))


def _is_active(job: TuningJob) -> bool:
    return (job.asked.get("method") or {}).get("type") == "active"


def _show_event(job: TuningJob, event: Event) -> dict[str, Any]:
    said = str(event.payload.get("message") or event.step or "")
    level = {WARNING: "warn", "failed": "error"}.get(event.kind, "info")
    return {
        "id": f"ftevent-{job.id.removeprefix('ftjob-')}-{event.sequence}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.time),
        "level": level,
        "type": "message",
        "message": f"{event.kind}: {said}" if said else event.kind,
        "data": {"step": event.step, "seconds": event.seconds},
    }


def _show_error(event: Event | None) -> dict[str, Any]:
    message = str(event.payload.get("message", "")) if event is not None else ""
    return {"code": "run_failed", "message": message, "param": None}
