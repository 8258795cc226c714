"""Deletion of examples, labels, people, uploads and runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atgen_ray.api.configuration import Location
from atgen_ray.api.errors import without_traceback
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    from atgen_ray.runs.deletion import Kind


@without_traceback
def delete(
    kind: "Kind",
    names: str | Sequence[str],
    *,
    run: str | None = None,
    annotator: str | None = None,
    dry_run: bool = False,
    by: str | None = None,
    storage: Location | None = None,
    database_url: str | None = None,
) -> dict[str, Any]:
    """Delete what was asked to be deleted, everywhere it lies, and return a certificate: what was
    `removed` where, and what `remains`.

    Args:
        kind: example, label, person, upload or run.
        names: ids of examples; or the name of a person, an upload or a run.
        run: only in this run; default: in all runs of the storage.
        annotator: whose label goes, for the kind label.
        dry_run: only tell; nothing changes.
        by: who asks for it; default: USER@HOST.
        storage, database_url: as for `open_run`.

    Raises:
        UserError: there is no such thing, or a controller drives a run that has it.

    Example:
        atgen_ray.delete("person", "Ann", dry_run=True)["removed"]
    """
    from atgen_ray.api.runs import find_place
    from atgen_ray.runs.deletion import Target
    from atgen_ray.runs.deletion import delete as erase
    from atgen_ray.store.changes import audited
    from atgen_ray.store.existing import open_runs
    from atgen_ray.store.owner import name_user

    chosen = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) for name in chosen):
        raise UserError("names has something that is no text, expected ids or one name")
    place, url = find_place(storage, database_url)
    with open_runs(place, url) as journal:
        target = Target(kind, chosen, run, annotator)
        if dry_run:
            return erase(journal, place, target, by or name_user(), rehearse=True).as_json()
        # A person has no name here: the certificate knows who it was by a digest.
        with audited(journal.database, f"delete {kind}", run=run) as said:
            done = erase(journal, place, target, by or name_user()).as_json()
            said["target"] = done["id"]
        return done
