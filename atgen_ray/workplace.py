"""Relative paths mean in every worker what they mean where the command was given."""

import os
from pathlib import Path
from typing import Any

FOLDER = "ATGEN_FOLDER"


def enter() -> None:
    """Goes to the command's working folder, where this node has it. Called in each worker process as it starts."""
    folder = os.environ.get(FOLDER, "")
    if Path(folder).is_dir():
        os.chdir(folder)


def runtime_environment() -> dict[str, Any]:
    """What workers of a cluster need that was started from another folder; Ray gives it to all workers of a driver."""
    return {"env_vars": {FOLDER: str(Path.cwd())}, "worker_process_setup_hook": f"{__name__}.{enter.__name__}"}
