"""Command `atgen-ray bench`: runs the sweep of a suite, then writes its results."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from atgen_ray.bench.config import BenchConfig
from atgen_ray.bench.console import choose_sweep_screen
from atgen_ray.bench.grid import Trial, list_trials, load_suite
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    from atgen_ray.bench.analysis.curves import Curve

FINISHED = 0
FAILED = 1
STOPPED = 3


def run_bench(
    source: str,
    overrides: list[str],
    storage: str | None,
    output: Path | None,
    only_results: bool,
    as_json: bool,
    console: Console,
) -> int:
    """Run the suite and write its results. Return the exit status: 0 all runs finished, 1 some
    failed, 3 stopped with everything saved.

    Raises:
        UserError: a mistake in the suite, or no results to write yet.
    """
    suite = load_suite(source, overrides, storage)
    trials = list_trials(suite)
    folder = output or Path(suite.storage) / "bench" / suite.name
    status = FINISHED
    if not only_results:
        from atgen_ray.bench.sweep import run_sweep

        screen = choose_sweep_screen(as_json, console)
        try:
            sweep = run_sweep(suite, trials, screen)
        finally:
            screen.close()
        status = FAILED if sweep.failed else STOPPED if sweep.left else FINISHED
    # After a stop or a failure too: results of the runs that have finished are written.
    curves = _read_curves(suite, trials)
    if not curves and status == FINISHED:
        raise UserError(
            f"suite '{suite.name}' has no finished run in {suite.storage!r}: run it "
            f"without --only-results"
        )
    if curves:
        from atgen_ray.bench.analysis.results import analyse, write_results

        write_results(suite, curves, analyse(suite, curves, len(trials)), folder)
    page = str(folder / "results.md") if curves else None
    _show_end(status, len(curves), len(trials), page, console if not as_json else None)
    return status


def _read_curves(suite: BenchConfig, trials: list[Trial]) -> "list[Curve]":
    from atgen_ray.bench.analysis.curves import read_curves
    from atgen_ray.store.journal import open_journal

    with closing(open_journal(suite.storage, trials[0].run.database_url)) as journal:
        return read_curves(
            trials, {name: task.metric for name, task in suite.tasks.items()}, journal
        )


def _show_end(
    status: int, done: int, total: int, page: str | None, console: Console | None
) -> None:
    """Print how the sweep ended, on the console or else as a JSON line."""
    if console is None:
        words = {FINISHED: "finished", FAILED: "failed", STOPPED: "stopped"}
        print(
            json.dumps(
                {
                    "type": "end",
                    "status": words[status],
                    "done": done,
                    "total": total,
                    "results": page,
                }
            )
        )
        return
    if page:
        console.print(f"results of {done} of {total} runs: {page}", highlight=False, soft_wrap=True)
    if status == STOPPED:
        console.print(
            "Stopped. All committed work is saved; the same command goes on from there.",
            highlight=False,
        )
    if status == FAILED:
        console.print(
            "Some runs failed; what they had committed is safe, and the same command "
            "tries them again."
        )
