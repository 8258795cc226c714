"""Reports of what a provider lets a run wait for, for those who look at the run."""

from collections.abc import Callable
from typing import Any

from atgen_ray.annotation.llm.shard_runner import ShardRunner
from atgen_ray.annotation.providers.base import Provider
from atgen_ray.core.machine import machine

REPORT_SECONDS = 5.0  # between two reports
RECENT_SECONDS = 60.0  # how old the error of a provider may be that is failing


class ProviderReport:
    """Reports the state of a provider where it is new, and not too often."""

    def __init__(
        self, provider: Provider, runner: ShardRunner, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self._provider = provider
        self._runner = runner
        self._report = report
        self._reported: dict[str, Any] = {}
        self._report_due = 0.0  # monotonic time

    def show(self, in_flight: int, queue_full: bool) -> None:
        """Report what the provider is doing, where that is new and some time has passed."""
        now = machine().monotonic()
        waits = self._runner.blocked_for
        state = {
            "provider": self._provider.name,
            "in_flight": in_flight,
            "waiting_until": round(machine().time() + waits) if waits > 0 else None,
            "queue_full": queue_full,
            "last_error": self._runner.last_error,
            "failing": now - self._runner.failed < RECENT_SECONDS,
        }
        if now >= self._report_due and state != self._reported:
            self._report_due = now + REPORT_SECONDS
            self._reported = state
            self._report(state)

    def show_end(self, reason: str | None = None) -> None:
        """Report that nothing is being sent: all is done, or the run ends for a reason."""
        self._report_due = 0.0
        self._reported = {
            "provider": self._provider.name,
            "in_flight": 0,
            "waiting_until": None,
            "queue_full": False,
            "last_error": reason or self._runner.last_error,
            "failing": False,
        }
        self._report(self._reported)
