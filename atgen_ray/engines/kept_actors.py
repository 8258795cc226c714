"""Actors that an engine keeps from step to step: started at the first use, restarted when another
kind is needed, and given up when something else needs their GPUs.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import eq
from typing import Any

from atgen_ray.config import EngineConfig, TrainingConfig
from atgen_ray.ray_runtime.hardware import count_gpus
from atgen_ray.ray_runtime.placement import fit_gpus, free_when_wanted, has_room

SHUTDOWN_SECONDS = 30.0  # for an actor to end the processes of its engine before it is killed

logger = logging.getLogger(__name__)


class KeptActors:
    """The actors of an engine, one for each of `engine.workers`.

    They belong to the process that made this object and end with it, or with `close`. Each has the
    methods `wait_ready` and `shut_down`, and one that can sleep has `sleep` and `wake_up`.
    """

    def __init__(self) -> None:
        self._actors: list[Any] = []
        self._kind: Any = None  # what they were started for
        self._gpus = 0.0  # that each of them reserves
        self._sleep = False

    def reserve(self, engine: EngineConfig) -> float:
        """Return the GPUs that each actor of `engine` reserves, or will reserve.

        What actors reserve is no longer free, so it is asked for before the first one starts.
        """
        if not self._actors:
            self._gpus = fit_gpus("engine.gpus_per_worker", engine.workers, engine.count_gpus())
        return self._gpus

    def have(
        self,
        kind: Any,
        start: Callable[[], list[Any]],
        fits: Callable[[Any, Any], bool] = eq,
        sleep: bool = False,
    ) -> list[Any]:
        """Return actors of this kind that are ready: those of the last pass, or new ones.

        Actors of another kind are ended first: memory may not suffice for two models.

        Args:
            kind: what the actors are needed for.
            start: returns new actors for it.
            fits: whether actors of the first kind do for the second.
            sleep: whether new actors can sleep.
        """
        import ray
        from ray.exceptions import RayActorError

        if self._actors and fits(self._kind, kind):
            try:
                self._call("wait_ready")
                return self._actors
            except RayActorError as error:  # it died more often than Ray restarts it
                logger.warning("an engine is started again: %s", error)
        self.close()
        self._actors = start()
        self._kind = kind
        self._sleep = sleep
        if self._gpus:
            free_when_wanted(self)
        try:
            self._call("wait_ready")
        except BaseException:  # an interrupt too: what starts only half must hold no GPU
            for actor in self._actors:
                ray.kill(actor)
            self._actors = []
            raise
        return self._actors

    @contextmanager
    def released(self, training: TrainingConfig | None) -> Iterator[None]:
        """Let `training` have the GPUs: actors stay, asleep if they can, where Ray has room for it
        beside them, and end otherwise.
        """
        if not self._leave_room(training):
            self.close()
        asleep = bool(self._actors) and self._sleep
        if asleep:
            self._call("sleep")
        try:
            yield
        finally:
            if asleep:
                self._call("wake_up")

    def close(self) -> None:
        """End the actors; the next pass starts others."""
        import ray
        from ray.exceptions import RayError

        actors = self._actors
        self._actors = []
        for actor in actors if ray.is_initialized() else []:
            with suppress(RayError):  # it is dead, or hangs
                ray.get(actor.shut_down.remote(), timeout=SHUTDOWN_SECONDS)
            ray.kill(actor)

    def give_back(self) -> None:
        """End actors that hold GPUs, which something else of this process waits for."""
        if self._gpus:
            self.close()

    def _leave_room(self, training: TrainingConfig | None) -> bool:
        if not self._actors or not self._gpus or training is None:
            return True
        if not training.uses_gpus(count_gpus()):
            return True
        # A training by one worker takes what a part of a GPU leaves.
        if self._gpus < 1 and training.workers == 1:
            return True
        return has_room([{"GPU": training.gpus_per_worker}] * training.workers)

    def _call(self, method: str) -> None:
        """Call a method of every actor and wait for all of them."""
        import ray

        ray.get([getattr(actor, method).remote() for actor in self._actors])
