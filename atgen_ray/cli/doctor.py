"""Command `atgen-ray doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from atgen_ray.api.runs import find_place
from atgen_ray.cli.options import AsJson, Storage
from atgen_ray.core.errors import printable

FOUND = 1


def doctor(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a run.", show_default="all runs")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every output and compare its digest.")
    ] = False,
    mend: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what is safe: outputs to their names, leftovers to the run's .trash, totals "
            "and labeled.jsonl written anew. Nothing paid or labelled is removed.",
        ),
    ] = False,
    restored: Annotated[
        bool,
        typer.Option(
            "--restored",
            help="Say that the journal was restored from a backup: before a run sends anything, it "
            "looks whether the provider has it already.",
        ),
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Hold the journal against storage and ledger: what is missing, what nobody names, what does
    not add up. It only reads, unless --repair or --restored is given.

    Exit status: 0 nothing was found, or all of it is mended; 1 something is left to do.

    Example: atgen-ray doctor demo --deep
    """
    from atgen_ray.runs.doctor import examine, repair
    from atgen_ray.store.changes import audited
    from atgen_ray.store.existing import open_runs

    place, url = find_place(storage)
    with open_runs(place, url) as journal:
        found = examine(journal, place, run, deep)
        if restored:
            for name in [record.name for record in journal.runs()] if run is None else [run]:
                with audited(journal.database, "note restored journal", run=name):
                    journal.note_restored(name)
        repaired = list[str]()
        if mend and any(finding.repairable for finding in found.findings):
            with audited(journal.database, "repair", run=run) as said:
                repaired = repair(journal, place, found.findings)
                said["repaired"] = len(repaired)
            found = examine(journal, place, run, deep)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "repaired": repaired}))
    else:
        for line in repaired:
            typer.echo(printable(f"repaired: {line}"))
        for finding in found.findings:
            whose = f"run {finding.run}" if finding.run else "storage"
            typer.echo(printable(f"{whose}: {finding.kind}: {finding.what}"))
            typer.echo(printable(f"    {finding.do}"))
        typer.echo(
            f"{found.runs} runs, {found.files} files, {found.not_verifiable} not verifiable: "
            f"{len(found.findings) or 'no'} findings"
        )
    if found.findings:
        raise typer.Exit(FOUND)
