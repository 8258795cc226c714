"""Progress of work that is no run, on the screens that runs have."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from atgen_ray.core.records import Progress


class Bars(Protocol):
    """The part of a screen that shows the step under way."""

    def show_activity(self, activity: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Steps:
    """Steps that follow one another; the screen is closed with the block.

    Example:
        with Steps(screen) as steps:
            progress = steps.start("generation")
            progress(3, 20)
    """

    def __init__(self, screen: Bars) -> None:
        self._screen = screen

    def start(self, step: str) -> "Progress":
        """Start a step; return what is to be called with the rows done and their total."""
        started = time.time()

        def progress(done: int, total: int) -> None:
            at = {"round": 0, "step": step, "done": done, "total": total, "started": started}
            self._screen.show_activity(at)

        return progress

    def __enter__(self) -> "Steps":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._screen.close()
