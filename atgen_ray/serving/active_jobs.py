"""Fine-tuning jobs that ask for their labels: the method `active`.

The file of such a job is a pool. Its run is an ordinary one: it picks rows, has them labelled by an
annotator that the service's owner has configured, trains, measures, and picks again.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from atgen_ray.annotation.human.annotator import AWAITING
from atgen_ray.config import ServiceConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.reporting.collect import choose_metric
from atgen_ray.selection import STRATEGIES
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.fine_tuning import ActiveBody, ActiveStateBody, ScoreBody, TuningBody
from atgen_ray.store.events import STEP, WARNING, Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tuning_jobs import TuningJob

HERE = "method.active"
ROUNDS = 4
LEAST_AUDIT = 8
MOST_AUDIT = 60
WAITING = "waiting for people"
# Keys of a run's configuration, and the parameters of a job that they come from.
SOURCES = {
    "annotator": f"{HERE}.annotator",
    "data.pool": "training_file",
    "data.test": "validation_file",
    "selection": f"{HERE}.strategy",
    "evaluation.audit": f"{HERE}.audit_labels",
    "stopping": f"{HERE}.budget",
}


def configure_active(body: TuningBody, rows: int, service: ServiceConfig) -> dict[str, Any]:
    """Return the sections of the run's configuration that say what is labelled, by whom and how
    much.

    Args:
        body: a request of the method active.
        rows: of the training file.

    Raises:
        ApiError: 400, the service or the file does not allow it; `param` says what.
    """
    active = body.active
    if active is None:
        raise ValueError("the job is supervised")
    name = _choose_annotator(active, service)
    if active.strategy is not None and active.strategy not in STRATEGIES:
        raise _refuse(
            "strategy",
            f"strategy is {active.strategy[:80]!r}, expected a query strategy"
            f"{nearest(active.strategy, STRATEGIES)}",
        )
    labels, dollars = _read_budget(active, rows, service)
    audit = _count_audit(body, active, labels, rows)
    rounds = ROUNDS if active.rounds == "auto" else active.rounds
    rounds = min(rounds, labels - audit)
    strategy = {} if active.strategy is None else {"strategy": active.strategy}
    return {
        "selection": strategy | {"count": ceil((labels - audit) / rounds)},
        "annotator": service.active_jobs.annotators[name].model_dump(mode="json"),
        "stopping": {"rounds": rounds, "labels": labels, "dollars": dollars},
        "evaluation": {"audit": {"labels": audit}} if audit else {},
    }


def _refuse(key: str, message: str) -> ApiError:
    return ApiError(400, f"{HERE}.{message}", param=f"{HERE}.{key}")


def _choose_annotator(active: ActiveBody, service: ServiceConfig) -> str:
    known = service.active_jobs.annotators
    if not known:
        raise ApiError(
            400,
            "method.type is 'active', expected 'supervised': this service has no annotators for "
            "jobs (active_jobs.annotators)",
            param="method.type",
        )
    name = active.annotator
    if name is None and len(known) == 1:
        return next(iter(known))
    if name is None:
        listed = ", ".join(sorted(known))
        raise _refuse("annotator", f"annotator is missing, expected one of {listed}")
    if name not in known:
        raise _refuse(
            "annotator",
            f"annotator is {name[:80]!r}, expected an annotator of this service"
            f"{nearest(name, known)}",
        )
    return name


def _read_budget(active: ActiveBody, rows: int, service: ServiceConfig) -> tuple[int, float | None]:
    """Return the labels to ask for, no more than there are rows, and the most dollars."""
    limits = service.active_jobs
    asked = active.budget
    if asked.labels is not None and asked.labels > limits.labels:
        raise _refuse(
            "budget.labels",
            f"budget.labels is {asked.labels}, expected at most {limits.labels} "
            f"(active_jobs.labels of this service)",
        )
    most = limits.dollars
    if most is not None and asked.dollars is not None and asked.dollars > most:
        raise _refuse(
            "budget.dollars",
            f"budget.dollars is {asked.dollars:g}, expected at most {most:g} (active_jobs.dollars "
            f"of this service)",
        )
    return min(asked.labels or limits.labels, rows), asked.dollars or most


def _count_audit(body: TuningBody, active: ActiveBody, labels: int, rows: int) -> int:
    """Return how many labels measure the model."""
    if active.audit_labels != "auto":
        audit = active.audit_labels
    elif body.validation_file is not None:
        audit = 0
    else:
        audit = max(LEAST_AUDIT, min(MOST_AUDIT, labels // 4))
    if 0 < audit < LEAST_AUDIT:
        raise _refuse(
            "audit_labels", f"audit_labels is {audit}, expected 0, or {LEAST_AUDIT} or more"
        )
    if audit >= labels:
        raise _refuse(
            "audit_labels",
            f"audit_labels is {audit}, expected fewer than the {labels} labels of the job, which "
            f"has {rows} rows; 0 measures nothing, and a validation_file measures without them",
        )
    return audit


def name_source(error: UserError) -> ApiError:
    """Return a mistake in a run's configuration as one of the job's request."""
    message = str(error)
    keys = (key for key in SOURCES if message.startswith(key))
    return ApiError(400, message, param=SOURCES.get(next(keys, "")))


def describe_active(
    job: TuningJob, status: str, journal: Journal, storage: str
) -> ActiveStateBody | None:
    """Return how far the labelling of a job is; None for a supervised job.

    Args:
        status: that of its run; "" before it has begun.
    """
    body = TuningBody.model_validate(job.asked)
    if body.active is None:
        return None
    tree = job.tree
    counts: Mapping[int, int] = {}
    total = None
    scores: dict[int, ScoreBody] = {}
    if status:
        counts = journal.count_labels(job.run)
        total = journal.total(job.run)
        scores = read_scores(job, storage)
        if status == "running" and _is_waiting(journal.events(job.run)):
            status = WAITING
    config = journal.run(job.run).config if status else tree
    return ActiveStateBody(
        run=job.run,
        state=status or "created",
        annotator=body.active.annotator or str(tree["annotator"]["type"]),
        strategy=(config.get("selection") or {}).get("strategy", ""),
        round=max((at for at in counts if at), default=0),
        labels=sum(counts.values()),
        audit_labels=counts.get(0, 0),
        dollars=round(total.dollars, 6) if total is not None else 0.0,
        budget={key: tree["stopping"][key] for key in ("labels", "dollars")},
        score=scores[max(scores)] if scores else None,
    )


def _is_waiting(events: list[Event]) -> bool:
    """Return whether people have been asked and nothing was committed since."""
    kinds = [event.kind for event in events if event.kind in (AWAITING, STEP)]
    return bool(kinds) and kinds[-1] == AWAITING


def read_scores(job: TuningJob, storage: str) -> dict[int, ScoreBody]:
    """Return the score of each round that was measured: on the validation file, or the audit."""
    folder = RunFolder(storage, job.run)
    rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
    found: dict[int, ScoreBody] = {}
    for row in rows:
        measured = row["metrics"] or row.get("audit_metrics") or {}
        metric = choose_metric(list(measured), job.tree)
        if metric is None or measured[metric].get("mean") is None:
            continue
        told = measured[metric]
        found[row["round"]] = ScoreBody(
            metric=metric,
            mean=told["mean"],
            low=told.get("low"),
            high=told.get("high"),
            count=told.get("count") or 0,
            round=row["round"],
            measured_on="validation_file" if row["metrics"] else "audit",
        )
    return found


def tell_event(
    event: Event, labels: Mapping[int, int], scores: Mapping[int, ScoreBody]
) -> tuple[str, dict[str, Any]]:
    """Return the message of an event of an active job, and what its data say beside the step.

    Args:
        labels: of each round.
        scores: of each round.
    """
    at = event.round or 0
    place = f"round {at}" if at else "audit"
    if event.kind == AWAITING:
        return f"{place}: {WAITING}", {"round": at}
    if event.kind == STEP and event.step == "selection":
        picks = event.payload.get("rows")
        return f"{place}: {picks} examples were picked", {"round": at, "picks": picks}
    if event.kind == STEP and event.step == "annotation":
        count = labels.get(at, 0)
        return f"{place}: {count} labels", {"round": at, "labels": count}
    if event.kind == STEP and event.step == "training":
        return f"{place}: an adapter was trained", {"round": at}
    if event.kind == STEP and event.step == "evaluation" and at in scores:
        score = scores[at]
        within = (
            ""
            if score.low is None or score.high is None
            else f" ({score.low:.3f} to {score.high:.3f})"
        )
        told = {"round": at, "score": score.model_dump()}
        return f"{place}: {score.metric} is {score.mean:.3f}{within}", told
    said = event.payload.get("message") or event.payload.get(WARNING) or event.step or ""
    return f"{event.kind}: {said}" if said else event.kind, {"round": event.round}
