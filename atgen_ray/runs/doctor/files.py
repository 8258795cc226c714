"""The run's folder against the journal: each output there, nothing else there."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.annotation.disclosure import list_remote
from atgen_ray.config import OpenAIAnnotatorConfig
from atgen_ray.config.dialects import stores_answers
from atgen_ray.config.loading import parse_config, renew_config
from atgen_ray.core.errors import UserError
from atgen_ray.runs.doctor.finding import Diagnosis, Finding, name_some
from atgen_ray.store.additions import GROWN, GROWTH, INBOX, PART, find_waiting
from atgen_ray.store.events import REMOVED, Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import (
    ATTEMPTS,
    AUDIT_MODELS,
    PROVIDER_STATE,
    RIVALS,
    round_folder,
)
from atgen_ray.store.local_files import STAGING
from atgen_ray.store.object_files import PUBLISHED
from atgen_ray.store.run_folder import TRASH, RunFolder
from atgen_ray.store.step_outputs import FILES, FOLDERS, PLACE, STEPS, drop_superseded

LABELED = "labeled.jsonl"
VERSIONS = "versions.json"
# Files that a controller writes again and again; the journal does not name them.
VIEWS = {
    "config.yaml",
    "learning_curve.png",
    "metrics.json",
    "report.html",
    AUDIT_MODELS,
    LABELED,
    PROVIDER_STATE,
    RIVALS,
    VERSIONS,
}
APART = (f"{PUBLISHED}/", f"{TRASH}/", "logs/")  # what is no output
# What the steps of an older version left, whose events name one output alone.
OLD_OUTPUTS = {
    "pool": ("pool.parquet", "gold.parquet", "test.parquet", "context.parquet", "plan.json"),
    "embedding": ("embeddings/",),
    "generation": ("{round}/features.parquet",),
    "selection": ("{round}/selection.parquet",),
    "annotation": ("{round}/annotations.jsonl",),
    "few_shot": ("{round}/few_shot.json", "{round}/few_shot.jsonl"),
    "training": ("{round}/adapter/", "{round}/training.json"),
    "evaluation": ("{round}/metrics.json", "{round}/predictions.jsonl"),
}
# Unfinished work, from which a step goes on until it is committed.
WORK = {
    "embedding": ("embeddings/",),
    "generation": ("{round}/features.parts/",),
    "few_shot": ("{round}/few_shot.parts/",),
    "training": ("{round}/training/", "{round}/training-"),
    "evaluation": ("{round}/predictions.parts/",),
    "audit": ("{round}/audit.parts/",),
    "measurement": ("{round}/measurement.parts/",),
    "rival": ("{round}/rivals/",),
}
MOST_BYTES = 1 << 26  # of labeled.jsonl, which is read as a whole


@dataclass(frozen=True)
class RunFiles:
    """What the checks of one run read: its events, its files with their sizes, and whether a
    controller is at work.
    """

    run: str
    folder: RunFolder
    steps: list[Event]
    sizes: dict[str, int]
    driven: bool
    epoch: int
    removed: frozenset[str] = frozenset()  # outputs that nobody wanted any more
    waiting: frozenset[str] = frozenset()  # parts of the inbox, whose rows the pool is to take
    named: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_files(journal: Journal, run: str, folder: RunFolder, epoch: int) -> RunFiles:
    """List the folder of a run and the steps in its journal."""
    driven = journal.has_live_controller(run)
    # The files come first: those of a step that is committed meanwhile are not orphans.
    sizes = folder.list_sizes()
    waiting = frozenset(str(event.payload[PART]) for event in find_waiting(journal, run))
    steps = drop_superseded(journal.steps(run))
    named = {rel: file for event in steps for rel, file in event.payload.get(FILES, {}).items()}
    removed = frozenset(
        rel for event in journal.events(run, kind=REMOVED) for rel in event.payload["outputs"]
    )
    return RunFiles(run, folder, steps, sizes, driven, epoch, removed, waiting, named)


def check_outputs(files: RunFiles, diagnosis: Diagnosis, deep: bool) -> None:
    """Find outputs that the journal names and that are missing, changed or not yet at their
    names.
    """
    unseen = sorted(files.waiting - files.sizes.keys()) if not files.driven else []
    if gone := [part for part in unseen if not files.folder.exists(part)]:
        diagnosis.add(
            Finding(
                files.run,
                "missing-output",
                f"{name_some(gone)}: missing, although its rows wait for the pool",
                "bring it back from a backup, or give the same `atgen-ray runs add` again",
                paths=tuple(gone),
            )
        )
    for event in files.steps:
        missing: list[str] = []
        waiting: list[str] = []
        changed: list[str] = []
        for rel, file in _name_outputs(event, files.sizes).items():
            aside = f"{STEPS}/{event.payload.get(PLACE)}/{rel}"
            if any(rel == path or rel.startswith(f"{path}/") for path in files.removed):
                continue
            if file is not None and files.sizes.get(aside) == file["size"]:
                waiting.append(rel)  # also one that takes the place of an older one
            elif rel not in files.sizes:
                (waiting if aside in files.sizes else missing).append(rel)
            elif file is None or file["digest"] is None:
                diagnosis.not_verifiable += 1
            elif files.sizes[rel] != file["size"]:
                changed.append(rel)
            elif deep:
                diagnosis.bytes_read += file["size"]
                if files.folder.digest(rel) != file["digest"]:
                    changed.append(rel)
        missing += _list_unpublished(event, files)
        diagnosis.add(*_describe(files, event, missing, waiting, changed))


def _name_outputs(event: Event, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the files of a step with their size and digest, or None where they are not known."""
    if FILES in event.payload:
        return dict(event.payload[FILES])
    output = event.payload.get("output")
    if output is None:
        return {}
    inside = [rel for rel in sizes if rel.startswith(f"{output}/")]
    return dict.fromkeys(inside or [output])


def _list_unpublished(event: Event, files: RunFiles) -> list[str]:
    """Return the folders of a step in an object store whose record is gone, so that nobody sees
    them.
    """
    if files.folder.is_local:
        return []
    return [
        rel
        for rel in event.payload.get(FOLDERS, ())
        if rel not in files.removed
        and f"{PUBLISHED}/{rel}.json" not in files.sizes
        and f"{STEPS}/{event.payload.get(PLACE)}/{PUBLISHED}/{rel}.json" not in files.sizes
    ]


def _describe(
    files: RunFiles, event: Event, missing: list[str], waiting: list[str], changed: list[str]
) -> Iterable[Finding]:
    run = files.run
    step = f"the {event.step} of round {event.round or 0}"
    if missing:
        yield Finding(
            run,
            "missing-output",
            f"{name_some(missing)}: missing, although the journal has {step}",
            f"bring it back from a backup that is as new as the journal; if there is none, take "
            f"the labels over into a new run: atgen-ray run CONFIG --name NEW --from {run}",
            paths=tuple(missing),
        )
    if changed:
        yield Finding(
            run,
            "changed-output",
            f"{name_some(changed)}: not what {step} made, by size or digest",
            "bring the file of that step back from a backup; what later steps made of it is as "
            "the journal says",
            paths=tuple(changed),
        )
    if waiting and not files.driven:
        yield Finding(
            run,
            "unnamed-output",
            f"{name_some(waiting)}: made and recorded by {step}, but not at its name, as the "
            f"controller died; readers find it",
            "--repair, or the run's command, moves it to its name",
            repairable=True,
            paths=tuple(waiting),
        )


def check_orphans(files: RunFiles, diagnosis: Diagnosis) -> None:
    """Find files that nothing names: outputs of steps that the journal does not have, and what
    killed processes left.
    """
    if files.driven:
        return  # a controller makes files before it names them
    done = {(event.round or 0, str(event.step)) for event in files.steps}
    orphans = defaultdict(list)
    leftovers = []
    for rel in sorted(files.sizes):
        if rel in files.named or rel in VIEWS or rel in files.waiting or rel.startswith(APART):
            continue
        if _is_leftover(rel, files, done):
            leftovers.append(rel)
        elif not _is_expected(rel, files, done):
            orphans[rel.rpartition("/")[0]].append(rel)
    if leftovers:
        diagnosis.add(
            Finding(
                files.run,
                "leftover",
                f"{len(leftovers)} files of processes that were killed or of steps that are done: "
                f"{name_some(leftovers)}",
                "--repair moves them to the run's .trash",
                repairable=True,
                paths=tuple(leftovers),
            )
        )
    for place, paths in orphans.items():
        diagnosis.add(
            Finding(
                files.run,
                "orphan-output",
                f"{name_some(paths)}: in the storage, but no step of the journal names it"
                f"{f', in {place}' if len(paths) > 1 else ''}",
                "if the journal is an older one that was restored, restore a newer one if you "
                "can; else --repair moves it to the run's .trash, and the run makes the step anew",
                repairable=True,
                paths=tuple(paths),
            )
        )


def _is_leftover(rel: str, files: RunFiles, done: Collection[tuple[int, str]]) -> bool:
    """Return whether a file is of no use to any controller."""
    if rel.startswith((f"{STAGING}/", f"{INBOX}/")) or (rel.startswith(".") and "/" not in rel):
        return True
    if rel.startswith(f"{STEPS}/"):
        place = "/".join(rel.split("/")[1:3]).removesuffix(".json")
        if any(event.payload.get(PLACE) == place for event in files.steps):
            return False  # it is moved to its name
        step = place.rpartition("/")[2]
        sealed = f"{STEPS}/{place}.json" in files.sizes
        number, _, name = step.partition("-")
        return not sealed or (int(number), name) in done
    return any(
        rel.startswith(prefix)
        for round, step in done
        if step != "embedding"
        for prefix in _fill(WORK.get(step, ()), round)
    )


def _is_expected(rel: str, files: RunFiles, done: Collection[tuple[int, str]]) -> bool:
    """Return whether a file is of a step of an older version, or of one under way."""
    if rel.startswith(f"{STEPS}/"):
        return True
    for event in files.steps:
        if FILES not in event.payload:
            for path in _fill(OLD_OUTPUTS.get(str(event.step), ()), event.round or 0):
                if rel == path or (path.endswith("/") and rel.startswith(path)):
                    return True
    steps = {step for _, step in done}
    grown = {f"{GROWN}{step.removeprefix(GROWTH)}" for step in steps if step.startswith(GROWTH)}
    if grown - steps and rel.startswith(WORK["embedding"]):
        return True  # what the pool took is being embedded
    number = rel.split("/")[1] if rel.startswith("rounds/") else "0"
    round = int(number) if number.isdigit() else 0
    return any(
        rel.startswith(prefix)
        for step, paths in WORK.items()
        if (round, step) not in done
        for prefix in _fill(paths, round)
    )


def _fill(paths: Iterable[str], round: int) -> list[str]:
    return [path.format(round=round_folder(round)) for path in paths]


def check_views(journal: Journal, files: RunFiles, diagnosis: Diagnosis, deep: bool) -> None:
    """Find signs that the journal is older than the storage, and a labeled.jsonl that is not what
    the journal has: in the number of its labels, and with `deep` in each of them.
    """
    run = files.run
    if VERSIONS in files.sizes:
        last = _read_last_attempt(files)
        if last > files.epoch:
            diagnosis.add(
                Finding(
                    run,
                    "older-journal",
                    f"{VERSIONS} knows the start {last} of a controller, the journal only "
                    f"{files.epoch}: the journal is an older one that was restored",
                    _advise(journal, run),
                )
            )
    if not files.driven and (deep or files.sizes.get(LABELED, 0) <= MOST_BYTES):
        _check_labeled(journal, files, diagnosis, deep)


def _read_last_attempt(files: RunFiles) -> int:
    """Return the largest epoch of a controller that versions.json has; 0 if it cannot be read."""
    try:
        attempts = files.folder.read_json(VERSIONS).get(ATTEMPTS, [])
        return max((int(entry.get("attempt", 0)) for entry in attempts), default=0)
    except (AttributeError, TypeError, ValueError):
        return 0


def _check_labeled(journal: Journal, files: RunFiles, diagnosis: Diagnosis, deep: bool) -> None:
    done = [event.round or 0 for event in files.steps if event.step == "annotation"]
    last = max(done, default=-1)  # round 0 has labels before the file is written
    text = files.folder.read_text(LABELED) if LABELED in files.sizes else ""
    counts = journal.count_labels(files.run).items()
    if not deep and text.count("\n") == sum(count for at, count in counts if at <= last):
        return
    written = _read_rows(text)
    del text
    stale = []
    for at, label in journal.scan_annotations(files.run):
        row = written.pop((label.id, label.annotator), {})
        if at <= last and row.get("text") != label.text:
            stale.append(label.id)
    lost = [*written.values()]
    if lost:
        dollars = sum(row.get("dollars", 0.0) for row in lost)
        rounds = sorted({int(row.get("round", 0)) for row in lost})
        diagnosis.add(
            Finding(
                files.run,
                "lost-label",
                f"{len(lost)} labels of round {', '.join(map(str, rounds))}, {dollars:.6g} "
                f"dollars, are in {LABELED} and not in the journal: "
                f"{name_some([str(row.get('id')) for row in lost])}",
                f"restore a journal that has them; else keep a copy of {LABELED} before the run "
                f"goes on and writes it anew (--repair keeps one in the run's .trash). "
                + _advise(journal, files.run),
                paths=(LABELED,),
            )
        )
    if done and stale:
        diagnosis.add(
            Finding(
                files.run,
                "stale-labels",
                f"{LABELED} lacks {len(stale)} labels of the journal, or has another text: "
                f"{name_some(stale)}",
                "--repair, or the run's command, writes it anew",
                repairable=True,
                paths=(LABELED,),
            )
        )


def _read_rows(text: str) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Return the rows of labeled.jsonl by example and annotator, without lines that are none."""
    written = {}
    for line in text.split("\n"):
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                written[row.get("id"), row.get("annotator")] = row
    return written


def _advise(journal: Journal, run: str) -> str:
    """Return what is paid twice, and what not, if a run goes on from an older journal."""
    twice: list[str] = []
    found: list[str] = []
    try:
        config = parse_config(renew_config(journal.run(run).config))
    except UserError:  # of another version
        return "if the run goes on, what was sent since may be paid again"
    for _, annotator in list_remote(config):
        stored = isinstance(annotator, OpenAIAnnotatorConfig) and stores_answers(
            annotator.recovery, annotator.dialect, annotator.base_url
        )
        asked = found if annotator.mode == "batch" or stored else twice
        asked.append(annotator.model)
    told = []
    if found:
        told.append(
            f"what {name_some(found)} was since is found again while the provider keeps "
            f"it, and is not paid again, once `atgen-ray doctor {run} --restored` has said that "
            f"there may be some"
        )
    if twice:
        told.append(
            f"single requests to {name_some(twice)} sent since are not known: those examples may "
            f"be asked and paid again"
        )
    if not told:
        told.append("nothing is paid twice: no model is paid by the request")
    return "if the run goes on, " + "; ".join(told)
