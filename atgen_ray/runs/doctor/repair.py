"""Repair of what cannot be wrong to mend."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

from atgen_ray.annotation.llm.request_totals import recount_requests
from atgen_ray.config.loading import parse_config, renew_config
from atgen_ray.runs.doctor.files import LABELED
from atgen_ray.runs.doctor.finding import Finding
from atgen_ray.runs.doctor.permissions import OPEN, close_files
from atgen_ray.runs.state import RunState
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import TRASH, RunFolder
from atgen_ray.store.step_outputs import StepOutputs, name_attempt
from atgen_ray.store.totals import recount

LEASE_SECONDS = 600.0


def repair(journal: Journal, storage: str, findings: Sequence[Finding]) -> list[str]:
    """Mend those `findings` that can be, each run under its lease; return a line for each thing
    done.

    Raises:
        RunBusyError: a controller drives one of the runs.
        UserError: the storage cannot be used.
    """
    done = []
    if any(finding.kind == OPEN for finding in findings):
        done.append(f"{close_files(storage)} files and folders closed to other accounts")
    for run in dict.fromkeys(finding.run for finding in findings if finding.run is not None):
        mine = [finding for finding in findings if finding.run == run]
        if not any(finding.repairable for finding in mine):
            continue
        lease = journal.acquire(run, ProcessIdentity(f"doctor-{uuid4().hex}"), LEASE_SECONDS)
        try:
            folder = RunFolder(storage, run).fenced(name_attempt(lease), lease.renew)
            done += [f"{run}: {line}" for line in _repair_run(journal, lease, folder, mine)]
        finally:
            lease.release()
    return done


def _repair_run(
    journal: Journal, lease: Lease, folder: RunFolder, findings: Sequence[Finding]
) -> list[str]:
    kinds = {finding.kind for finding in findings}
    done = []
    trash = f"{TRASH}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{lease.epoch}"
    if kinds & {"lost-label", "stale-labels"} and folder.keep(LABELED, trash):
        done.append(f"{LABELED} copied to {trash}")
    # Before the leftovers are put away, which they are no more once they have their names.
    StepOutputs(folder, lease).recover(journal.steps(lease.run))
    if "unnamed-output" in kinds:
        done.append("outputs that the journal names are at their names")
    for finding in findings:
        if finding.kind in ("leftover", "orphan-output"):
            moved = sum(folder.discard(rel, trash) for rel in finding.paths)
            if moved:
                done.append(f"{moved} files moved to {trash}")
            if gone := len(finding.paths) - moved:
                done.append(f"{gone} files that a killed process had half written removed")
    if "stale-labels" in kinds:
        config = parse_config(renew_config(journal.run(lease.run).config))
        rounds = [
            event.round or 0 for event in journal.steps(lease.run) if event.step == "annotation"
        ]
        rows = RunState(config, journal, folder).labeled_rows(max(rounds))
        folder.write_jsonl(LABELED, rows)
        done.append(f"{LABELED} written anew with {len(rows)} labels")
    if "wrong-totals" in kinds:
        with journal.leased_transaction(lease) as connection:
            recount(connection, lease.run)
            recount_requests(connection, lease.run)
        done.append("totals computed anew")
    return done
