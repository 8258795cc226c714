"""Sessions on a Ray cluster: the one at RAY_ADDRESS, or a private one on this machine.

A private cluster ends with its session. Relative paths mean in every worker what they mean where
the command was given. For example

    with ray_session("atgen"):
        ray.get(task.remote())

An address where no Ray listens, or a Ray that does not start, raises UserError within seconds.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray

from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.core.private_files import VARIABLE as UMASK
from atgen_ray.core.private_files import (
    make_own_folder,
    private_files,
    tighten,
    use_private_files,
)
from atgen_ray.ray_runtime import private_api
from atgen_ray.ray_runtime.workers import reuse_idle_workers

NAMESPACE = "atgen"

ANSWER_SECONDS = 6.0  # timeout of each of the two checks of RAY_ADDRESS
SOCKET_PATH = 107  # bytes of the longest path of a Unix socket
# Longest path that Ray appends to its temporary folder.
RAY_PATH = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"


def is_private() -> bool:
    """Return whether commands of this process start a private Ray cluster."""
    return not os.environ.get("RAY_ADDRESS")


def check_temporary_folder() -> None:
    """Check that a Ray which is started here can keep its files and sockets.

    Raises:
        UserError: the folder that RAY_TMPDIR or TMPDIR names cannot be written, or its path is too
            long.
    """
    variable, folder = _find_temporary_folder()
    expected = "expected a folder that can be written, as /tmp"
    named = f"{variable} is {folder!r}" if variable else f"{folder} is where Ray keeps its files"
    if not Path(folder).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{named}, {expected}")
    longest = SOCKET_PATH - len(RAY_PATH.format(pid=os.getpid()))
    if len(os.fsencode(folder)) > longest:
        raise UserError(
            f"{named}, which is too long for the sockets of Ray: {expected}, of at most {longest} "
            f"bytes"
        )


def find_private_folder() -> str | None:
    """Return a folder for the files of a Ray that is started here, in one that is ours alone: Ray
    itself opens its folders to every account of the machine. None: Ray's own, since the path would
    be too long for its sockets, or somebody else has taken the name.
    """
    _, folder = _find_temporary_folder()
    private = Path(folder, f"atgen-{os.getuid()}")
    if len(os.fsencode(private)) > SOCKET_PATH - len(RAY_PATH.format(pid=os.getpid())):
        return None
    return str(private / "ray") if make_own_folder(private) else None


def _find_temporary_folder() -> tuple[str, str]:
    """Return the variable that names the folder in which Ray makes its own, or "", and it."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    folder = os.environ.get(variable, "/tmp")  # noqa: S108  # nosec B108 - where Ray goes
    return variable, folder


def has_open_ports() -> bool:
    """Return whether anybody who reaches the ports of Ray and of Serve's replicas may run code,
    since they ask for no token.
    """
    return not private_api.requires_token()


def start_ray(**settings: Any) -> None:
    """Connect this process to Ray, or start one; do nothing if the process is connected already.

    Args:
        settings: arguments of `ray.init`.

    Raises:
        StorageUnavailableError: Ray did not start in time, or nothing answers at the address.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises a bare Exception when a node does not start in time
        ray.shutdown()
        raise StorageUnavailableError(explain_start(error)) from error


@contextmanager
def ray_session(
    namespace: str, runtime_env: dict[str, Any] | None = None, log_to_driver: bool = False
) -> Iterator[None]:
    """Connect for the block to the cluster at RAY_ADDRESS, or to a private one on this machine that
    reuses idle workers and ends with the block.

    If the process is connected already, that connection is used and stays.

    Args:
        namespace: namespace of the command's named actors.
        runtime_env: environment of workers of a cluster at RAY_ADDRESS; those of a private cluster
            have the environment of this process.
        log_to_driver: print what workers print.

    Raises:
        UserError: nothing answers at RAY_ADDRESS, it is the address of a dashboard, or Ray does not
            start.
    """
    # A wrong environment is reported also where this process has a Ray already.
    if is_private():
        check_temporary_folder()  # before Ray starts any process
    else:
        check_address(os.environ["RAY_ADDRESS"])
    if ray.is_initialized():
        yield
        return

    settings: dict[str, Any] = {
        "namespace": namespace,
        "logging_level": "error",
        "log_to_driver": log_to_driver,
    }
    if is_private():
        # Its processes inherit the umask.
        with (
            reuse_idle_workers(),
            private_api.start_needed_processes(log_to_driver),
            private_api.stay_on_loopback(),
            private_files(),
        ):
            start_ray(
                address="local",
                include_dashboard=False,
                _temp_dir=find_private_folder(),
                **settings,
            )
        tighten(private_api.find_token_file())  # an earlier Ray may have left it open
    else:
        start_ray(address=os.environ["RAY_ADDRESS"], runtime_env=runtime_env, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Check that something like Ray's head listens at `address`.

    Ray itself would retry for minutes and ignore SIGTERM meanwhile. An address without a port, such
    as "auto", is left to Ray.

    Raises:
        UserError: nothing answers there, or it is the address of a dashboard.
    """
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is '{address}', the dashboard, which `atgen-ray submit CONFIG --address "
            f"{address}` "
            "takes; expected HOST:6379, or none for a Ray of this command's own"
        )
    # An address of Ray is HOST:PORT for drivers and ray://HOST:PORT for clients.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    expected = (
        "expected the head of a running cluster, as HOST:6379, or none for a Ray of this "
        "command's own"
    )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"RAY_ADDRESS is '{address}', where nobody listens ({reason}): {expected}"
        ) from None
    if not address.startswith("ray://") and not speaks_grpc(address):
        raise UserError(
            f"RAY_ADDRESS is '{address}', where something else than Ray listens: {expected}"
        )


def speaks_grpc(address: str) -> bool:
    """Return whether a gRPC server, as Ray's head is one, answers in time.

    With TLS the answer is True without a check, which would need Ray's certificates.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return True
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def explain_start(error: Exception) -> str:
    """Return one line on why Ray did not start or could not be joined."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if is_private():
        return (
            f"Ray does not start on this machine, and nothing was begun; the same command "
            f"tries again: {reason}"
        )
    return f"RAY_ADDRESS is '{os.environ['RAY_ADDRESS']}', whose cluster cannot be joined: {reason}"


def find_mistake(error: BaseException) -> str | None:
    """Return the message of the UserError of a worker behind `error`; None if there is none.

    Ray wraps the errors of tasks in a class of its own, whose text is a traceback. Of an actor that
    could not start it keeps only that text, so that the message must be read out of it.
    """
    from ray.exceptions import RayError

    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        each = causes.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, UserError) and not isinstance(each, RayError):
            return str(each)
        causes += [each.__cause__, getattr(each, "cause", None)]
    pattern = rf"^{UserError.__module__}\.{UserError.__name__}: (.+)$"
    messages = re.findall(pattern, str(error), re.MULTILINE)
    return str(messages[-1]) if messages else None


def find_start_failure(error: BaseException) -> str | None:
    """Return the last line of the error that kept an actor from starting; None for other errors."""
    text = str(error)
    if "error raised in its creation task" not in text:
        return None
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1].strip()


def quieten_ray_data() -> None:
    """Turn off the progress bars and reports of Ray Data in this process; callers show their own
    progress.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    private_api.silence_progress_bars()


def run_session() -> AbstractContextManager[None]:
    """Return a `ray_session` for runs, whose workers use the working folder of this process."""
    return ray_session(NAMESPACE, runtime_environment())


FOLDER = "ATGEN_FOLDER"
FORWARDED = ("ATGEN_PRICES", UMASK)  # variables that the processes of a run get too


def use_submit_dir() -> None:
    """Change to the command's working folder if this node has it, and keep files private; Ray
    calls this in each worker process as it starts.
    """
    use_private_files()
    folder = os.environ.get(FOLDER, "")
    if Path(folder).is_dir():
        os.chdir(folder)


def runtime_environment() -> dict[str, Any]:
    """Return the Ray environment with which workers use the working folder of this process, also in
    a cluster that was started from another folder.
    """
    forwarded = {name: os.environ[name] for name in FORWARDED if os.environ.get(name)}
    return {
        "env_vars": {FOLDER: str(Path.cwd()), **forwarded},
        "worker_process_setup_hook": f"{__name__}.{use_submit_dir.__name__}",
    }
