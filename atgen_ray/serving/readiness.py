"""Readiness of the service: each thing that it depends on is looked at in a thread of its own.

Load balancers ask often, so that what was found is kept for a second. What hangs counts as failing
after five, and is not looked at by a second thread meanwhile.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fastapi.concurrency import run_in_threadpool

from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.core.stored import explain_trouble, open_url
from atgen_ray.engines.serve_engine import APP

READY_SECONDS = 5.0
KEPT_SECONDS = 1.0

Check = Callable[[], None]  # raises where the dependency cannot be used

logger = logging.getLogger(__name__)


class Readiness:
    """What of the service's dependencies fails, kept for KEPT_SECONDS.

    However many callers ask, only one thread checks a dependency: if it hangs, no others join it.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        """Look at what `checks` names."""
        self._checks = checks
        self._looking: dict[str, asyncio.Future[None]] = {}
        self._answer: asyncio.Task[dict[str, str]] | None = None
        self._answered = 0.0
        self._logged: dict[str, str] = {}
        self.names = tuple(checks)

    async def find(self) -> dict[str, str]:
        """Return what fails, with the reason of each; empty if the service is ready."""
        if self._answer is None or (
            self._answer.done() and time.monotonic() - self._answered > KEPT_SECONDS
        ):
            self._answer = asyncio.create_task(self._find())
        # Shielded: a caller that leaves must not cancel the check for others.
        return await asyncio.shield(self._answer)

    async def _find(self) -> dict[str, str]:
        names = [*self._checks]
        reasons = await asyncio.gather(*map(self._look, names))
        found = {name: why for name, why in zip(names, reasons, strict=True) if why is not None}
        if found != self._logged:  # the answer is public and names them alone; the log says why
            logger.warning("not ready: %s", found) if found else logger.info("ready")
            self._logged = found
        self._answered = time.monotonic()
        return found

    async def _look(self, name: str) -> str | None:
        """Return why the dependency fails, or None."""
        if name not in self._looking or self._looking[name].done():
            self._looking[name] = asyncio.ensure_future(run_in_threadpool(self._checks[name]))
        try:
            await asyncio.wait_for(asyncio.shield(self._looking[name]), READY_SECONDS)
        except TimeoutError:
            return f"no answer in {READY_SECONDS:g} s"
        except Exception as error:  # any error means not ready
            return f"{type(error).__name__}: {error}"
        return None


def make_storage(storage: str) -> None:
    """Create the folder of the storage where it alone is missing: with the journal in PostgreSQL
    nobody has before the first run.

    A folder above that is missing too, as below a volume that is not there, is left to
    `check_storage`, which tells callers.
    """
    if "://" not in storage:
        with suppress(OSError):
            Path(storage).mkdir(mode=0o700, exist_ok=True)


def check_storage(storage: str) -> None:
    """Check that the storage can be written (a folder) or asked (a bucket).

    Raises:
        OSError: the folder is not there, is read-only, or its disk is full.
        StorageUnavailableError: the bucket does not answer.
    """
    if "://" in storage:
        filesystem, path = open_url(storage)
        with explain_trouble(filesystem, path):
            filesystem.invalidate_cache()
            filesystem.exists(path)
        return
    probe = Path(storage) / f".ready-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"ready")
    finally:
        probe.unlink(missing_ok=True)


def check_replicas() -> None:
    """Check that every deployment of the application has its replicas.

    Raises:
        StorageUnavailableError: one has not, or the application is not there; names it.
    """
    states = deployment_states()
    lacking = [f"{name} is {state}" for name, state in states.items() if state != "HEALTHY"]
    if lacking or not states:
        raise StorageUnavailableError(", ".join(lacking) or "the application is not deployed")


def deployment_states() -> dict[str, str]:
    """Return the state of each deployment; of one that changes its number of replicas, HEALTHY,
    since it still answers.
    """
    import ray
    from ray import serve

    if not ray.is_initialized():  # asking would start one
        return {}
    application = serve.status().applications.get(APP)
    if application is None:
        return {}
    states = {name: str(each.status.value) for name, each in application.deployments.items()}
    if application.status.value == "DEPLOYING":
        return states
    settled = {"UPDATING": "HEALTHY", "UPSCALING": "HEALTHY", "DOWNSCALING": "HEALTHY"}
    return {name: settled.get(state, state) for name, state in states.items()}
