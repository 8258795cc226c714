"""The folder of a run without what goes, under the run's lease.

Order: what nothing names any more goes first, then files that no digest guards, then the outputs of
steps with their rows in the journal in one transaction, and last what is computed from them. A kill
leaves a run that works; the same deletion again goes on.
"""

from collections.abc import Callable, Iterator

import sqlalchemy as sa

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_json import encode_json
from atgen_ray.reporting.page import PNG
from atgen_ray.reporting.publish import renew_report
from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.runs.deletion.outputs import count_changes, is_rewritten, renew_event, rewrite
from atgen_ray.runs.deletion.redaction import Redaction
from atgen_ray.store.events import Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.local_files import STAGING
from atgen_ray.store.run_folder import TRASH, RunFolder
from atgen_ray.store.step_outputs import FILES, PLACE, STEPS, StepOutputs, drop_superseded
from atgen_ray.store.tables import events

REPORT = "report.html"
LABELED = "labeled.jsonl"
TEXTS = (".json", ".jsonl", ".html", ".yaml", ".txt", ".md")
PIECE = 1 << 20
WORK = (".parts", "training")  # folders of unfinished steps, below a round


def count_in_files(folder: RunFolder, redaction: Redaction, out: Certificate) -> None:
    """Add what `redact_files` would remove to the certificate; change nothing."""
    for rel in sorted(folder.list_sizes()):
        if _is_leftover(rel):
            out.add(Removed(_place(folder, rel), "files of killed or unfinished steps"))
        elif rel.startswith(f"{TRASH}/") and is_rewritten(rel):
            stamp, _, inner = rel.removeprefix(f"{TRASH}/").partition("/")
            count = count_changes(folder.below(TRASH, stamp), inner, redaction)
            out.add(Removed(_place(folder, rel), "rows", count))
        elif is_rewritten(rel):
            out.add(Removed(_place(folder, rel), "rows", count_changes(folder, rel, redaction)))
        elif rel == REPORT:
            out.add(Removed(_place(folder, rel), "pages written anew"))


def redact_files(
    config: RunConfig | None,
    journal: Journal,
    lease: Lease,
    folder: RunFolder,
    redaction: Redaction,
    out: Certificate,
    purge: Callable[[sa.Connection], None],
) -> None:
    """Take what goes out of the folder of a run, and out of the journal by `purge` in the
    transaction that names the new files.
    """
    outputs = StepOutputs(folder, lease)
    outputs.recover(journal.steps(lease.run))
    _clear(folder, out)
    _redact_trash(folder, redaction, out)
    _clean_views(folder, redaction, out)
    _redact_views(folder, redaction, out, unnamed_only=True, journal=journal)
    steps = drop_superseded(journal.steps(lease.run))
    renewed = []
    for event in steps:
        if payload := _rewrite_step(outputs, folder, event, redaction, out):
            renewed.append((event.sequence, payload))
    lease.renew()
    with journal.leased_transaction(lease) as connection:
        for sequence, payload in renewed:
            here = (events.c.run == lease.run) & (events.c.sequence == sequence)
            connection.execute(sa.update(events).where(here).values(payload=payload))
        purge(connection)
    outputs.publish(journal.steps(lease.run))
    _redact_views(folder, redaction, out, unnamed_only=False, journal=journal)
    _renew_report(config, journal, folder, out)


def find_left(folder: RunFolder, redaction: Redaction, out: Certificate) -> None:
    """Add the files that still have one of the texts, or the name, to the certificate."""
    needles = [spelled.encode("utf-8", "replace") for spelled in redaction.spelled if spelled]
    for rel in sorted(folder.list_sizes()) if needles else []:
        if rel.endswith((".safetensors", ".parquet", ".png")):
            continue  # weights; tables, whose rows are keyed and compressed; pictures
        if _has(folder.scan_bytes(rel, PIECE), needles):
            out.add(
                Remaining(
                    _place(folder, rel),
                    "the same text or name stands there",
                    "it is somebody else's row, or a setting",
                    "delete those examples too, or change the configuration, if it is meant",
                )
            )


def _has(pieces: Iterator[bytes], needles: list[bytes]) -> bool:
    overlap = max(map(len, needles)) - 1
    before = b""
    for piece in pieces:
        here = before + piece
        if any(needle in here for needle in needles):
            return True
        before = here[len(here) - overlap :] if overlap else b""
    return False


def _is_leftover(rel: str) -> bool:
    parts = rel.split("/")
    if parts[0] in (STAGING, STEPS):
        return True
    work = parts[2] if parts[0] == "rounds" and len(parts) > 3 else ""
    return work.endswith(WORK[0]) or work == WORK[1] or work.startswith(f"{WORK[1]}-")


def _clear(folder: RunFolder, out: Certificate) -> None:
    """Remove what killed and unfinished steps left: they may hold any text, and are made anew."""
    gone = 0
    for rel in folder.list_sizes():
        if _is_leftover(rel):
            folder.erase(rel)
            gone += 1
    out.add(Removed(_place(folder, ".steps and rounds/*"), "files of unfinished steps", gone))


def _redact_trash(folder: RunFolder, redaction: Redaction, out: Certificate) -> None:
    for rel in folder.list_sizes():
        if not rel.startswith(f"{TRASH}/"):
            continue
        stamp, _, inner = rel.removeprefix(f"{TRASH}/").partition("/")
        trash = folder.below(TRASH, stamp)
        if not is_rewritten(inner) or inner.startswith("."):
            if inner.startswith(".") or inner.endswith((*TEXTS, ".png")):
                folder.erase(rel)  # of a half-made step, or a page
                out.add(Removed(_place(folder, rel), "files"))
        elif count := count_changes(trash, inner, redaction):
            rewrite(trash, inner, redaction, trash)
            out.add(Removed(_place(folder, rel), "rows", count))


def _clean_views(folder: RunFolder, redaction: Redaction, out: Certificate) -> None:
    """Clean small files that no step names and no example owns."""
    for rel in ("provider.json", "plan.json", "metrics.json"):
        if not folder.exists(rel):
            continue
        value = folder.read_json(rel)
        new = redaction.clean_json(value)
        if encode_json(new) != encode_json(value):
            folder.write_json(rel, new)
            out.add(Removed(_place(folder, rel), "files cleaned"))


def _redact_views(
    folder: RunFolder,
    redaction: Redaction,
    out: Certificate,
    unnamed_only: bool,
    journal: Journal,
) -> None:
    """Rewrite files that no step names: those of older versions, and then `labeled.jsonl`."""
    named = {rel for event in journal.steps(folder.name) for rel in event.payload.get(FILES, {})}
    for rel in sorted(folder.list_sizes()):
        if rel in named or rel.startswith(".") or not is_rewritten(rel):
            continue
        if (rel == LABELED) == unnamed_only:
            continue
        if count := count_changes(folder, rel, redaction):
            before = folder.digest(rel)
            rewrite(folder, rel, redaction, folder)
            out.add(Removed(_place(folder, rel), "rows", count, before, folder.digest(rel)))


def _rewrite_step(
    outputs: StepOutputs, folder: RunFolder, event: Event, redaction: Redaction, out: Certificate
) -> dict[str, object] | None:
    """Write the files of a step aside without what goes; return the new payload of its event, or
    None where nothing changes.
    """
    aside = None
    for rel, known in event.payload.get(FILES, {}).items():
        if not is_rewritten(rel) or not folder.exists(rel):
            continue
        if not (count := count_changes(folder, rel, redaction)):
            continue
        if aside is None:
            aside = outputs.open(event.round or 0, str(event.step))
        rewrite(folder, rel, redaction, aside)
        after = aside.written[rel].digest
        out.add(Removed(_place(folder, rel), "rows", count, known["digest"], after))
    if aside is None:
        return None
    place = outputs.describe(event.round or 0, str(event.step), aside)[PLACE]
    return renew_event(event, place, dict(aside.written))


def _renew_report(
    config: RunConfig | None, journal: Journal, folder: RunFolder, out: Certificate
) -> None:
    """Write the page of the run anew; remove it where that cannot be done."""
    if not folder.exists(REPORT):
        return
    before = folder.digest(REPORT)
    try:
        if config is None:
            raise UserError("its configuration is of another version")
        renew_report(config, journal, folder)
    except (UserError, ValueError, KeyError):
        folder.remove(REPORT)
        folder.remove(PNG)
    after = folder.digest(REPORT) if folder.exists(REPORT) else None
    out.add(Removed(_place(folder, REPORT), "pages written anew", 1, before, after))


def _place(folder: RunFolder, rel: str) -> str:
    return f"runs/{folder.name}/{rel}"
