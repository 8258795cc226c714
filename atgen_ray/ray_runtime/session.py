"""The Ray cluster that a command works on.

Relative paths mean in every worker what they mean where the command was given.
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
from atgen_ray.ray_runtime.workers import reuse_idle_workers

NAMESPACE = "atgen"

ANSWER_SECONDS = 6.0  # how long whoever listens at RAY_ADDRESS may take to answer, twice
SOCKET_PATH = 107  # bytes of the longest path of a socket
# What Ray puts behind its folder.
RAY_PATH = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"


def is_private() -> bool:
    """Whether commands of this process work on a Ray of their own."""
    return not os.environ.get("RAY_ADDRESS")


def check_temporary_folder() -> None:
    """Nothing, where a Ray that is started here can keep its files and sockets.

    Raises:
        UserError: the folder that RAY_TMPDIR or TMPDIR names cannot be written, or its path is too
            long.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    folder = os.environ.get(variable, "/tmp")  # noqa: S108  # nosec B108 - where Ray goes
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


def has_open_ports() -> bool:
    """Whether anybody who reaches the ports of Ray and of Serve's replicas may run code: they ask
    for no token.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return not is_token_auth_enabled()


def start_ray(**settings: Any) -> None:
    """Connects this process to Ray, or starts one; nothing happens where it is connected already.

    Args:
        settings: of `ray.init`.

    Raises:
        StorageUnavailableError: Ray did not start in time, or nothing answers at the address.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(**settings)
    except (
        Exception
    ) as error:  # of no one class: Ray raises a bare Exception for a node that is late
        ray.shutdown()
        raise StorageUnavailableError(explain_start(error)) from error


@contextmanager
def ray_session(
    namespace: str, runtime_env: dict[str, Any] | None = None, log_to_driver: bool = False
) -> Iterator[None]:
    """The cluster at RAY_ADDRESS, or a private one on this machine that keeps workers and ends with
    the session.

    A process that is connected to Ray already, as a notebook may be, works there and stays
    connected.

    Args:
        namespace: of the actors that the command names.
        runtime_env: for workers of a cluster that was started elsewhere; those of a private one
            have our environment.
        log_to_driver: print what workers print.

    Raises:
        UserError: nobody answers at RAY_ADDRESS, it is the address of a dashboard, or Ray does not
            start.
    """
    if ray.is_initialized():
        yield
        return
    if not is_private():
        check_address(os.environ["RAY_ADDRESS"])

    settings: dict[str, Any] = {
        "namespace": namespace,
        "logging_level": "error",
        "log_to_driver": log_to_driver,
    }
    if is_private():
        check_temporary_folder()
        with reuse_idle_workers():
            start_ray(address="local", include_dashboard=False, **settings)
    else:
        start_ray(address=os.environ["RAY_ADDRESS"], runtime_env=runtime_env, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Nothing, where something like Ray's head listens at `address`, or where Ray has to look for
    it, as for "auto".

    Ray itself would try for minutes, deaf to SIGTERM.

    Raises:
        UserError: nobody answers there, or it is the address of a dashboard.
    """
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is '{address}', the dashboard, which `atgen-ray submit CONFIG --address "
            f"{address}` "
            "takes; expected HOST:6379, or none for a Ray of this command's own"
        )
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
    """Whether a gRPC server, as Ray's head is one, answers in time; taken for granted where TLS is
    on.
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
    """One line on why there is no Ray to work on."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if is_private():
        return (
            f"Ray does not start on this machine, and nothing was begun; the same command "
            f"tries again: {reason}"
        )
    return f"RAY_ADDRESS is '{os.environ['RAY_ADDRESS']}', whose cluster cannot be joined: {reason}"


def find_mistake(error: BaseException) -> str | None:
    """What a UserError of a worker said, out of what Ray made of it; None where there is no such
    error behind it.

    Ray gives the errors of tasks a class of its own, whose text is a traceback, and keeps of those
    of an actor that could not start nothing but that text.
    """
    from ray.exceptions import RayError

    seen: set[int] = set()
    behind: list[BaseException | None] = [error]
    while behind:
        each = behind.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, UserError) and not isinstance(each, RayError):
            return str(each)
        behind += [each.__cause__, getattr(each, "cause", None)]
    told = re.findall(
        rf"^{UserError.__module__}\.{UserError.__name__}: (.+)$", str(error), re.MULTILINE
    )
    return str(told[-1]) if told else None


def find_start_failure(error: BaseException) -> str | None:
    """The last line of what kept an actor from starting; None for any other error."""
    text = str(error)
    if "error raised in its creation task" not in text:
        return None
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1].strip()


def quieten_ray_data() -> None:
    """No progress bars and no reports of Ray Data in this process: what works with it shows
    progress of its own.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(
        logging.ERROR
    )  # that there are no bars


def run_session() -> AbstractContextManager[None]:
    """The Ray cluster for runs: the one at RAY_ADDRESS, or a private one on this machine that ends
    with them.
    """
    return ray_session(NAMESPACE, runtime_environment())


FOLDER = "ATGEN_FOLDER"


def use_submit_dir() -> None:
    """Goes to the command's working folder, where this node has it. Called in each worker process
    as it starts.
    """
    folder = os.environ.get(FOLDER, "")
    if Path(folder).is_dir():
        os.chdir(folder)


def runtime_environment() -> dict[str, Any]:
    """What workers of a cluster need that was started from another folder; Ray gives it to all
    workers of a driver.
    """
    return {
        "env_vars": {FOLDER: str(Path.cwd())},
        "worker_process_setup_hook": f"{__name__}.{use_submit_dir.__name__}",
    }
