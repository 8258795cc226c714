"""The Ray cluster that a command works on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atgen_ray.workers import keep_workers


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
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, runtime_env=runtime_env, **settings)
    else:
        with keep_workers():
            ray.init(address="local", include_dashboard=False, **settings)
    try:
        yield
    finally:
        ray.shutdown()
