"""Start a run, follow it to its end, and plan one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from atgen_ray.api.configuration import ConfigSource, Location, Overrides, check_files, resolve
from atgen_ray.api.errors import without_traceback
from atgen_ray.api.runs import Run
from atgen_ray.core.errors import RunFailedError, UserError

if TYPE_CHECKING:
    from atgen_ray.config import RunConfig
    from atgen_ray.runs.leased_run import Goal, Snapshot
    from atgen_ray.store.events import Event

OnEvent = Callable[["Event"], Any]


class Screen(Protocol):
    """Where progress is shown; `close` takes away what should not stay."""

    def show_event(self, event: "Event") -> None: ...

    def show_activity(self, activity: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@without_traceback
def run(
    config: ConfigSource,
    *,
    on_event: OnEvent | None = None,
    storage: Location | None = None,
    name: str | None = None,
    overrides: Overrides = (),
    fork_from: str | None = None,
    progress: bool = True,
) -> Run:
    """Start a run, or resume it, and return it when it has ended.

    The same call again goes on wherever the last one was interrupted, and pays for no label twice.
    A run that is finished is returned at once. An interrupt (Ctrl-C, or the stop button of a
    notebook) stops the run, which is then returned with the status `stopped`; a second one
    interrupts the call itself.

    Ray is started on this machine for the time of the call, unless RAY_ADDRESS names a cluster or
    this process is connected to Ray already. Whoever connects it does so in the folder that
    relative paths of the configuration refer to.

    Args:
        config: a YAML file, the name of a preset, a mapping of keys and values, or a `RunConfig`.
        on_event: is called with every `Event` of the run's journal, in order; on a resumed run with
            the earlier ones first. What it raises ends the call.
        storage: folder or URL that holds the runs; default: the configuration's, `./atgen-runs`.
        name: name of the run; default: the configuration's.
        overrides: settings to change, as `{"stopping.rounds": 3}` or `["stopping.rounds=3"]`.
        fork_from: RUN or RUN:ROUND whose pool, labels and ledger the run takes over.
        progress: show progress: a bar in a notebook or terminal, else a line a step on standard
            error.

    Raises:
        UserError: a mistake in the configuration or data, one line each; nothing was paid for it.
        RunFailedError: the run ended on anything else; what it had committed is safe.

    Example:
        run = atgen_ray.run("demo", overrides={"selection.strategy": "random"}, name="demo-random")
        run.curve().plot(x="labels", y="rougeL")
    """
    loaded = resolve(config, overrides, storage=storage, name=name, fork_from=fork_from)
    check_files(loaded)
    follow(loaded, "run", open_screen(progress), on_event)
    return Run.of(loaded)


def follow(
    config: "RunConfig", goal: "Goal", screen: Screen, on_event: OnEvent | None = None
) -> "Snapshot":
    """Drive the run to its end, or to its first selection if that is the goal, and return how it
    ended. Progress is shown on `screen`, which is closed.

    Raises:
        UserError, RunFailedError: as `run`.
    """
    from atgen_ray.runs.driver import run_to_end

    try:
        end = run_to_end(config, _Listener(screen, on_event), goal)
    finally:
        screen.close()
    if end.status == "failed":
        raise UserError(end.message) if end.mistake else RunFailedError(config.name, end.message)
    return end


class Plan(dict[str, Any]):
    """The numbers of a dry run by their names, as `atgen-ray plan --json` prints them.

    `pool_rows`, `rounds`, `labels`, `dollars` where labels are paid for, `prompt_tokens`,
    `optimizer_steps` and `device_minutes` (None for a model that no earlier run has used) are among
    them. `problems` has a line for everything that would keep the run from its end.
    """

    @property
    def problems(self) -> list[str]:
        """Problems that would end the run early, one line each."""
        return list(self["problems"])

    def check(self) -> None:
        """Raise the problems, if there are any.

        Raises:
            UserError: with a line for each.
        """
        from atgen_ray.preflight import raise_problems

        raise_problems(self.problems)

    def _repr_html_(self) -> str:
        from atgen_ray.api.html import format_pairs

        rows = [(key.replace("_", " "), value) for key, value in self.items() if value != []]
        return format_pairs("plan", [(key, "unknown" if v is None else v) for key, v in rows])


@without_traceback
def plan(
    config: ConfigSource,
    *,
    storage: Location | None = None,
    overrides: Overrides = (),
    on_waiting: Callable[[str | None], Any] | None = None,
) -> Plan:
    """Estimate the rows, labels, dollars, tokens and device minutes of the run that `config`
    describes. The dry run costs nothing and contacts no provider.

    Args:
        config, storage, overrides: as for `run`.
        on_waiting: hears what a cluster has no room for, and None once it has.

    Raises:
        UserError: the data or the model cannot be read. Other problems are in `Plan.problems`.

    Example:
        plan = atgen_ray.plan("my-task.yaml", overrides={"stopping.rounds": 10})
        plan["labels"], plan.problems
    """
    loaded = resolve(config, overrides, storage=storage)
    check_files(loaded)
    from atgen_ray.runs.estimate import plan_run

    return Plan(plan_run(loaded, on_waiting or (lambda _: None)))


def open_screen(progress: bool) -> Screen:
    """Return the screen for where this process runs; without `progress` one that shows nothing."""
    if not progress:
        return _Silence()
    from rich.console import Console

    from atgen_ray.runs.console import choose_screen

    return choose_screen(False, Console(highlight=False, stderr=True))


class _Silence:
    """Shows nothing."""

    def show_event(self, event: "Event") -> None:
        """Do nothing."""

    def show_activity(self, activity: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Listener:
    """A screen, and the caller who hears of events beside it."""

    def __init__(self, screen: Screen, on_event: OnEvent | None) -> None:
        self._screen = screen
        self._on_event = on_event

    def show_event(self, event: "Event") -> None:
        self._screen.show_event(event)
        if self._on_event is not None:
            self._on_event(event)

    def show_activity(self, activity: dict[str, Any]) -> None:
        self._screen.show_activity(activity)
