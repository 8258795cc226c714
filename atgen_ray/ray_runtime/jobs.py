"""Submission of a run as a Ray job to a remote cluster, for `atgen-ray submit`; the job's log is
shown as it grows.
"""

import asyncio
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from atgen_ray.core.errors import UserError

EXCLUDED = ["/atgen-runs/", "/.venv/", "/.git/"]


def submit_run(arguments: Sequence[str], address: str, show: Callable[[str], Any]) -> str:
    """Submit `atgen-ray run ARGUMENTS` with the working folder, follow its log and return the last
    status of the job.

    `show` is given each line of the log. The job goes on when this process ends.

    Raises:
        UserError: no cluster answers at `address`, it asks for a token that this process has not,
            the working folder is too large, or the connection is lost later.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "atgen_ray.cli", "run", *arguments]),
            runtime_env={"working_dir": ".", "excludes": EXCLUDED},
        )
    except AuthenticationError as error:
        raise UserError(
            f"--address is '{address}', which refuses this command ({_first_line(error)}): set "
            f"RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of that cluster"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address is '{address}', where no job can be submitted: {_first_line(error)}"
        ) from None
    show(f"job {job} at {address}; `ray job stop --address {address} {job}` stops it")
    try:
        asyncio.run(_follow(client, job, show))
        return str(client.get_job_status(job).value)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"the log of job {job} broke off, and the job may go on ({_first_line(error)}): "
            f"`ray job logs --follow --address {address} {job}` shows it"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


async def _follow(client: Any, job: str, show: Callable[[str], Any]) -> None:
    async for text in client.tail_job_logs(job):
        for line in text.splitlines():
            show(line)
