"""Reports on stored runs: their view is collected from the journal and the run's folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from atgen_ray.annotation.human.draft_experiment import measure_drafts
from atgen_ray.annotation.human.progress import measure_people
from atgen_ray.annotation.llm.request_counts import count_tokens
from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import check_folder
from atgen_ray.core.records import DELETED
from atgen_ray.engines.choice import ENGINE
from atgen_ray.reporting.collect import collect_run
from atgen_ray.reporting.growth import count_unaudited, tell_growth
from atgen_ray.reporting.page import DEAD_LETTERS, PNG, render_page, write_report
from atgen_ray.reporting.plots.curves import draw_learning_curve
from atgen_ray.reporting.run_view import RunView
from atgen_ray.store.additions import ADDED
from atgen_ray.store.events import STEP
from atgen_ray.store.existing import open_runs
from atgen_ray.store.exports import REPORT, note_export
from atgen_ray.store.journal import Journal
from atgen_ray.store.label_changes import count_stale_labels
from atgen_ray.store.owner import name_user
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.run_records import INTERRUPTED, INTERRUPTION, explain_end


def publish_report(
    config: RunConfig, journal: Journal, folder: RunFolder, reason: str | None
) -> None:
    """Write `report.html` and `learning_curve.png` into the run's own folder; `reason` says why the
    run ended.
    """
    view = _collect(config.name, journal, folder, reason)
    folder.write_bytes(PNG, draw_learning_curve([view]))
    folder.write_text("report.html", render_page([view]))


def renew_report(config: RunConfig, journal: Journal, folder: RunFolder) -> None:
    """Write the report in the run's folder anew, from what the run has now."""
    publish_report(config, journal, folder, _find_reason(config.name, journal))


def compare_runs(
    names: Sequence[str], storage: str, database_url: SecretStr | None, output: Path
) -> Path:
    """Write a report on the runs `names`, in that order, to the local file `output`; return its
    path.

    Raises:
        UserError: no run has such a name, or `output` is a folder.
    """
    if output.is_dir():
        raise UserError(
            f"--output is '{output}', a folder; expected a file, such as '{output / 'report.html'}'"
        )
    check_folder(output)
    written = write_report(view_runs(names, storage, database_url), output)
    with open_runs(storage, database_url) as journal:
        for name in dict.fromkeys(names):
            place = str(written.absolute())
            note_export(journal, name, REPORT, "html", 1, name_user(), place)
    return written


def view_runs(names: Sequence[str], storage: str, database_url: SecretStr | None) -> list[RunView]:
    """Return the runs `names` as they stand now, in that order.

    Raises:
        UserError: no run has such a name.
    """
    with open_runs(storage, database_url) as journal:
        for name in names:
            journal.run(name)  # a name that is wrong is said before anything is read
        return [view_run(name, journal, storage) for name in names]


def view_run(name: str, journal: Journal, storage: str, selection: bool = True) -> RunView:
    """Return the view of the run as it is now. Without `selection`, which takes the longest, it
    says nothing of what was picked.

    Raises:
        UserError: no run has that name.
    """
    return _collect(name, journal, RunFolder(storage, name), _find_reason(name, journal), selection)


def _collect(
    name: str, journal: Journal, folder: RunFolder, reason: str | None, selection: bool = True
) -> RunView:
    dead = [letter for _, letter in journal.dead_letters(name, limit=DEAD_LETTERS)]
    deleted = {letter.id for _, letter in journal.dead_letters(name, step=DELETED)}
    view = collect_run(
        folder,
        dead,
        reason,
        _count_actual(name, journal),
        selection,
        count_stale_labels(journal, name),
        deleted,
    )
    view = replace(view, dead_letter_count=journal.count_dead_letters(name))
    events = journal.events(name, kind=(ADDED, STEP))
    view = replace(view, growth=tell_growth(events), unaudited=count_unaudited(events))
    if selection:
        view = replace(
            view, drafts=measure_drafts(journal, name), people=measure_people(journal, name)
        )
    if chosen := journal.events(name, kind=ENGINE):
        view.versions["engine chosen"] = chosen[-1].payload[ENGINE]
    return view


def _count_actual(name: str, journal: Journal) -> dict[str, float]:
    """Return what the run has used so far, under the names of its plan."""
    steps = journal.steps(name)
    total = journal.total(name)
    seconds = sum(event.seconds or 0.0 for event in steps)
    annotation = sum(event.seconds or 0.0 for event in steps if event.step == "annotation")
    return {
        "labels": total.labels,
        "rounds": max((event.round or 0 for event in steps), default=0),
        "dollars": total.dollars,
        **count_tokens(journal, name),
        "annotation_minutes": annotation / 60,
        "device_minutes": (seconds - annotation) / 60,
    }


def _find_reason(name: str, journal: Journal) -> str | None:
    """Return the message with which the run last ended, else its status; None while it goes on."""
    status = journal.describe_status(journal.run(name))
    if status in ("created", "running"):
        return None
    if status == INTERRUPTED:
        return f"{status}: {INTERRUPTION}"
    return explain_end(status, journal.events(name)) or status
