"""The Ray cluster that a command works on."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atgen_ray.errors import OutOfOrder
from atgen_ray.workers import keep_workers


def is_private() -> bool:
    """Whether commands of this process work on a Ray of their own."""
    return not os.environ.get("RAY_ADDRESS")


def has_open_ports() -> bool:
    """Whether anybody who reaches the ports of Ray and of Serve's replicas may run code: they ask for no token."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return not is_token_auth_enabled()


def start_ray(**settings: Any) -> None:
    """Connects this process to Ray, or starts one; nothing happens where it is connected already.

    Args:
        settings: of `ray.init`.

    Raises:
        OutOfOrder: Ray did not start in time, or nothing answers at the address.
    """
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(**settings)
    except Exception as error:  # of no one class: Ray raises a bare Exception for a node that is late
        reason = " ".join(str(error).split())[:300]
        raise OutOfOrder(f"Ray did not start: {reason or type(error).__name__}") from error


@contextmanager
def ray_session(
    namespace: str, runtime_env: dict[str, Any] | None = None, log_to_driver: bool = False
) -> Iterator[None]:
    """The cluster at RAY_ADDRESS, or a private one on this machine that keeps workers and ends with the session.

    Args:
        namespace: of the actors that the command names.
        runtime_env: for workers of a cluster that was started elsewhere; those of a private one have our environment.
        log_to_driver: print what workers print.
    """
    import ray

    settings: dict[str, Any] = {"namespace": namespace, "logging_level": "error", "log_to_driver": log_to_driver}
    if is_private():
        with keep_workers():
            start_ray(address="local", include_dashboard=False, **settings)
    else:
        start_ray(address=os.environ["RAY_ADDRESS"], runtime_env=runtime_env, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def quieten_ray_data() -> None:
    """No progress bars and no reports of Ray Data in this process: what works with it shows progress of its own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that there are no bars
