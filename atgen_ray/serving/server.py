"""Service in the foreground: deploys a Ray Serve configuration and waits for a signal. The command
`atgen-ray serve` calls it and prints its messages.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atgen_ray.config.loading import database_url_from_environment
from atgen_ray.core.errors import UserError
from atgen_ray.core.strict_yaml import parse_yaml
from atgen_ray.engines.serve_engine import APP
from atgen_ray.ray_runtime.placement import watch_waiting
from atgen_ray.ray_runtime.private_api import deploy_in_background
from atgen_ray.ray_runtime.session import has_open_ports, is_private, ray_session
from atgen_ray.runs.doctor.permissions import find_open_files
from atgen_ray.runs.driver import stop_on_signal
from atgen_ray.serving.drain import DRAIN_SECONDS, drain
from atgen_ray.serving.security.invites import Invites
from atgen_ray.serving.security.proxy_guard import CALLBACK
from atgen_ray.serving.security.proxy_guard import IMPORT_PATH as IMPORT_PATH_OF_GUARD
from atgen_ray.serving.security.tokens import Tokens, check_address
from atgen_ray.store.changes import audited
from atgen_ray.store.journal import open_journal

IMPORT_PATH = "atgen_ray.serving.application:build_application"
HOST = "127.0.0.1"
PORT = 8000
START_SECONDS = 1800.0  # a large model is read from a slow disk


@contextmanager
def open_tokens(storage: str, database_url: Any = None) -> Iterator[Tokens]:
    """Open the tokens of a storage's journal for the block."""
    with closing(open_journal(storage, database_url or database_url_from_environment())) as journal:
        yield Tokens(journal.database)


@contextmanager
def open_invites(storage: str, database_url: Any = None) -> Iterator[Invites]:
    """Open the invitations of a storage's journal for the block."""
    with closing(open_journal(storage, database_url or database_url_from_environment())) as journal:
        yield Invites(journal.database)


def serve_until_interrupted(
    config: str | None,
    storage: str | None,
    host: str | None,
    port: int | None,
    report: Callable[[str], None],
) -> None:
    """Deploy the service, wait for SIGINT or SIGTERM, drain it and take it down. A second signal
    takes it down at once.

    Args:
        report: called with every message for the user.

    Raises:
        UserError: a mistake in the configuration, a public address without a token, or a service
            that does not start.
    """
    from atgen_ray.serving.application import parse_service

    tree = read_serve_config(config, storage, host, port)
    options = tree["http_options"]
    args = tree["applications"][0]["args"]
    service = parse_service(args)
    with (
        open_tokens(service.storage, service.database_url) as tokens,
        audited(tokens.database, "start service", target=f"{options['host']}:{options['port']}"),
    ):
        check_address(options["host"], tokens)
        if not tokens.exists("admin"):
            report(
                "no token yet: `atgen-ray token create --role admin` makes one; until then every "
                "request gets 401"
            )
    for finding in find_open_files(service.storage):
        report(f"{finding.what}; `atgen-ray doctor --repair` takes their rights away")
    # In this order, since Ray sets signal handlers of its own when it starts.
    with _serve_session(tree), stop_on_signal(urgent=True) as stop:
        if has_open_ports():
            report(
                "Ray asks for no token: whoever reaches its ports can run code here; "
                "RAY_AUTH_MODE=token closes them"
            )
        with watch_waiting(lambda waiting: report(waiting or "Ray has found room for every part")):
            _wait_until_running(stop)
        if not stop.is_set():
            report(f"serving on http://{options['host']}:{options['port']}")
        stop.wait()
        report(
            f"ending within {DRAIN_SECONDS:.0f} s: requests end, runs are handed over; another "
            f"signal ends at once"
        )
        drain()


def read_serve_config(
    config: str | None, storage: str | None, host: str | None, port: int | None
) -> dict[str, Any]:
    """Return a configuration of Ray Serve as plain data, with the options of the command line.

    Raises:
        UserError: the file cannot be read, is no configuration of Serve, or its first application
            is not that of this project.
    """
    from ray.serve.schema import ServeDeploySchema

    tree: Any = {
        "applications": [{"name": APP, "route_prefix": "/", "import_path": IMPORT_PATH, "args": {}}]
    }
    if config is not None:
        try:
            tree = parse_yaml(Path(config).read_text(encoding="utf-8"), f"--config '{config}'")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config is '{config}', which cannot be read: {error}") from None
    try:
        ServeDeploySchema.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"--config is '{config}', which Ray Serve does not take: {where}: {first['msg']}"
        ) from None
    ours = tree["applications"][0]
    if ours["import_path"] != IMPORT_PATH:
        raise UserError(
            f"--config is '{config}', whose first application is not import_path: {IMPORT_PATH}"
        )
    args = dict(ours.get("args") or {})
    ours["args"] = args | ({"storage": storage} if storage is not None else {})
    # The command line goes before the file, and the file before the defaults.
    options = {"host": HOST, "port": PORT} | dict(tree.get("http_options") or {})
    given = {"host": host, "port": port}
    tree["http_options"] = options | {
        key: value for key, value in given.items() if value is not None
    }
    return dict(tree)


@contextmanager
def _serve_session(tree: dict[str, Any]) -> Iterator[None]:
    """Deploy the service for the block, in the cluster at RAY_ADDRESS or in a private one that ends
    with the block.
    """
    from ray import serve
    from ray.serve.config import ProxyLocation
    from ray.serve.schema import ServeDeploySchema

    if is_private():
        os.environ.setdefault(CALLBACK, IMPORT_PATH_OF_GUARD)
    with ray_session("serve", log_to_driver=True):
        schema = ServeDeploySchema.model_validate(tree)
        location = ProxyLocation(tree.get("proxy_location", ProxyLocation.EveryNode))
        deploy_in_background(schema, location)
        yield
        serve.shutdown()


def _wait_until_running(stop: threading.Event) -> None:
    from ray import serve

    deadline = time.monotonic() + START_SECONDS
    while not stop.wait(0.5):
        application = serve.status().applications.get(APP)
        status = application.status.value if application else "DEPLOYING"
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY") or time.monotonic() > deadline:
            raise UserError(
                f"the service did not start: "
                f"{_last_cause(application.message if application else '')}"
            )


def _last_cause(message: str) -> str:
    """Return the line of a traceback that names the error."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if "Error" in line),
        lines[-1] if lines else "no reason given",
    )
