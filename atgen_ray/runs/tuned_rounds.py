"""Which tuned model a run has after which round."""

from collections.abc import Sequence
from typing import Any

from atgen_ray.core.errors import UserError
from atgen_ray.core.stored import Stored
from atgen_ray.runs.state import explain_missing
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import find_output

MOST_ROUNDS = 999_999


def refer_tuned(
    journal: Journal, folder: RunFolder, round: int | None = None
) -> tuple[int, Stored]:
    """Return a round with a reference to what its training left: an adapter, or the whole model
    where training.method is full.

    Args:
        round: default: the last one that was trained.

    Raises:
        UserError: the run is unknown, the round was not trained, or its output is gone.
    """
    name = folder.name
    journal.run(name)
    trained = {
        event.round or 0: event
        for event in journal.events(name)
        if event.is_step and event.step == "training"
    }
    round = max(trained, default=0) if round is None else check_round(round)
    if round not in trained:
        raise UserError(explain_round(name, round, sorted(trained), "has no adapter"))
    rel = f"{round_folder(round)}/adapter"
    found = find_output(folder, trained[round], rel)
    if found is None:
        raise UserError(explain_missing(name, round, "training", folder.path(rel)))
    return round, found.refer(rel)


def check_round(round: Any) -> int:
    """Return `round`, or raise UserError where it is no number of a round."""
    if not isinstance(round, int) or isinstance(round, bool) or not 0 <= round <= MOST_ROUNDS:
        raise UserError(f"round is {str(round)[:80]!r}, expected a whole number from 0")
    return round


def explain_round(run: str, round: int, known: Sequence[int], lack: str) -> str:
    """Return one line on a round of `run` that lacks something, with the rounds that have it."""
    have = ", ".join(str(at) for at in known)
    hint = f"expected one of {have}" if known else "no round has by now"
    return f"round {round} of run '{run}' {lack}; {hint}"
