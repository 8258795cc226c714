"""Arguments and options that several commands share, and the console that they print to."""

from typing import Annotated

import typer
from rich.console import Console

STORAGE = "./atgen-runs"
console = Console(highlight=False)

Source = Annotated[
    str, typer.Argument(metavar="CONFIG|PRESET", help="A YAML file, or the name of a preset.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, as stopping.rounds=3."),
]
Storage = Annotated[
    str | None, typer.Option(help="Folder or URL that holds the runs.", show_default=STORAGE)
]
RunName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run.")]
ForkFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN[:ROUND]",
        help="Take over pool, labels and ledger of another run up to a round (its last), and go "
        "on in another way.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
