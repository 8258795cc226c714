"""The one entry to deletion: a target, and a certificate of what was done.

Example:
    target = Target("example", ("3f2a9c",))
    certificate = delete(journal, "./atgen-runs", target, by="ann@host", rehearse=True)
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.names import check_run_name
from atgen_ray.runs.deletion.certificate import Certificate, Remaining
from atgen_ray.runs.deletion.examples import delete_examples, describe_examples
from atgen_ray.runs.deletion.people import delete_person, list_names
from atgen_ray.runs.deletion.redaction import Rename
from atgen_ray.runs.deletion.whole import delete_run, delete_upload
from atgen_ray.store.deletions import begin_deletion, enter_certificate, list_deletions
from atgen_ray.store.journal import Journal

Kind = Literal["example", "label", "person", "upload", "run"]
MOST = 10_000  # examples of one deletion
TRIAL = "rehearsal"


@dataclass(frozen=True)
class Target:
    """What is to be deleted: example ids (`names`), in `run` alone or in all runs; the label of an
    example by `annotator`; a person; an upload; or a run.
    """

    kind: Kind
    names: tuple[str, ...]
    run: str | None = None
    annotator: str | None = None


def delete(
    journal: Journal, storage: str, target: Target, by: str, rehearse: bool = False
) -> Certificate:
    """Delete `target` everywhere it lies, and return the certificate, which the journal keeps. With
    `rehearse` nothing changes. A deletion that was cut short is finished by the same call.

    Raises:
        UserError: there is no such thing, or the target is malformed.
        RunBusyError: a controller drives a run that has it.
    """
    _check(journal, target)
    salt = secrets.token_hex(8)
    described = _describe(target, salt)
    if rehearse:
        certificate = Certificate(TRIAL, target.kind, described, by, _now(journal), dry_run=True)
        _find(journal, storage, target, certificate)(certificate)
        return certificate
    open_one = _find_open(journal, target)
    trial = Certificate(TRIAL, target.kind, described, by, 0.0)
    act = _find(journal, storage, target, trial if open_one is None else open_one)
    record = begin_deletion(journal, target.kind, described, by, lambda it: _is_same(it, target))
    certificate = Certificate(record.id, record.kind, record.target, record.by, record.begun)
    if record.certificate:
        certificate = Certificate.from_json(record.certificate)
    certificate.runs = list(dict.fromkeys([*certificate.runs, *trial.runs]))
    # What stays is told by what is there now: after a kill much of it could not be known any more.
    plan = replace(certificate, id=TRIAL, dry_run=True, removed=[], remains=[])
    act(plan)
    certificate.add(*plan.remains)
    certificate.runs = list(dict.fromkeys([*certificate.runs, *plan.runs]))
    _store(journal, certificate)
    try:
        act(certificate)
    finally:
        _store(journal, certificate)
    if said := journal.database.scrub():
        certificate.add(Remaining("database", "old pages", said))
    certificate.finished = _now(journal)
    _store(journal, certificate)
    return certificate


def _find(
    journal: Journal, storage: str, target: Target, known: Certificate
) -> Callable[[Certificate], None]:
    """Return the function that deletes, after a look whether there is anything; the runs that are
    meant are put into `known`.
    """
    if target.kind in ("example", "label"):
        ids = frozenset(target.names)
        every = [record.name for record in journal.runs()]
        runs = every if target.run is None else [target.run]
        redaction, found = describe_examples(journal, storage, ids, target.annotator, runs)
        known.runs = list(dict.fromkeys([*known.runs, *found.runs]))
        if not known.runs:
            what = "example" if target.kind == "example" else f"label by {target.annotator!r} of"
            raise UserError(
                f"{what} {', '.join(target.names)[:80]!r} is in no run of this storage, expected "
                f"an id, as `atgen-ray runs export` and the pages show it"
            )
        return lambda out: delete_examples(journal, storage, redaction, found, out)
    (name,) = target.names
    if target.kind == "person":
        names = list_names(journal)
        if name not in names and not known.removed and known.begun == 0.0:
            raise UserError(f"person {name[:80]!r} is unknown{nearest(name, names)}")
        return lambda out: delete_person(journal, storage, _rename(name, out), out)
    if target.kind == "upload":
        return lambda out: delete_upload(journal, storage, name, out)
    if not known.id.startswith("d"):
        journal.run(name)
    return lambda out: delete_run(journal, storage, name, out)


def _rename(name: str, out: Certificate) -> Rename:
    return Rename(name, str(out.target["pseudonym"]))


def _describe(target: Target, salt: str) -> dict[str, Any]:
    """Return the target as the journal keeps it: a name as a digest."""
    if target.kind == "person":
        pseudonym = f"person-{secrets.token_hex(4)}"
        return {"salt": salt, "digest": _hash(salt, target.names[0]), "pseudonym": pseudonym}
    described: dict[str, Any] = {"ids": sorted(target.names)}
    if target.kind in ("upload", "run"):
        described = {"name": target.names[0]}
    if target.run is not None:
        described["run"] = target.run
    if target.annotator is not None:
        described["annotator"] = target.annotator
    return described


def _is_same(described: dict[str, Any], target: Target) -> bool:
    if target.kind == "person":
        return bool(described["digest"] == _hash(str(described["salt"]), target.names[0]))
    return described == _describe(target, "")


def _find_open(journal: Journal, target: Target) -> Certificate | None:
    """Return the certificate of the deletion of `target` that was cut short."""
    for record in list_deletions(journal):
        mine = record.kind == target.kind and record.finished is None
        if mine and record.certificate and _is_same(record.target, target):
            return Certificate.from_json(record.certificate)
    return None


def _check(journal: Journal, target: Target) -> None:
    if target.kind not in get_args(Kind):
        raise UserError(f"kind is {target.kind!r}{nearest(target.kind, get_args(Kind))}")
    if not target.names or not all(target.names) or len(target.names) > MOST:
        raise UserError(f"expected 1 to {MOST:,} names of what is to be deleted")
    if target.kind in ("person", "upload", "run") and len(target.names) > 1:
        raise UserError(f"expected one {target.kind}, not {len(target.names)}")
    if (target.kind == "label") != (target.annotator is not None):
        raise UserError("annotator is needed for a label, and for a label alone")
    if target.run is not None:
        if target.kind not in ("example", "label"):
            raise UserError("run is for examples and labels alone")
        journal.run(target.run)
    if target.kind == "run":
        check_run_name(target.names[0])


def _store(journal: Journal, certificate: Certificate) -> None:
    with journal.database.writing() as connection:
        stored = certificate.as_json()
        enter_certificate(connection, certificate.id, stored, certificate.finished)


def _now(journal: Journal) -> float:
    with journal.database.reading() as connection:
        return journal.database.clock(connection)


def _hash(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}:{name}".encode()).hexdigest()
