"""What is said of the error that ended a run."""

import logging
import traceback

from ray.exceptions import RayActorError, WorkerCrashedError

from atgen_ray.core.credentials import redact
from atgen_ray.ray_runtime.session import find_mistake, find_start_failure
from atgen_ray.selection import BrokenStrategyError

logger = logging.getLogger(__name__)


def explain_failure(error: Exception, run: str, step: str, folder: str) -> tuple[str, bool]:
    """Return why `run` ended on `error` in the middle of `step`, and whether its user made the
    mistake: one line for what is known, else the whole traceback.

    Args:
        folder: of the run.
    """
    if (mistake := find_mistake(error)) is not None:
        return redact(mistake), True
    if isinstance(error, FileNotFoundError) and folder in str(error):
        gone = str(error.filename or error)
        return f"{gone} is missing, although the journal has it: bring the run's folder back", True
    logger.exception("run %s failed", run, exc_info=error)
    if isinstance(error, BrokenStrategyError):
        hint = "the defect is in the strategy; once it is mended, the same command goes on"
        return f"{error}: {hint}", False
    if (reason := find_start_failure(error)) is not None:
        return redact(f"the workers of {step} cannot start: {reason[:500]}"), False
    if isinstance(error, RayActorError | WorkerCrashedError):
        reason = redact(" ".join(str(error).split())[:500])
        hint = "most likely for want of memory: make engine.batch_size or the prompts smaller"
        return f"the workers of {step} died again and again, {hint}. Ray says: {reason}", False
    return redact("".join(traceback.format_exception(error))), False
