"""Runs a service from its Serve configuration until interrupted: the part of `atgen-ray serve`
behind the screen.
"""

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
from atgen_ray.ray_runtime.session import has_open_ports, ray_session
from atgen_ray.run.driver import stop_on_signal
from atgen_ray.serving.security.tokens import Tokens, check_address
from atgen_ray.store.journal import open_journal

IMPORT_PATH = "atgen_ray.serving.application:build_application"
HOST = "127.0.0.1"
PORT = 8000
START_SECONDS = 1800.0  # a large model is read from a slow disk


@contextmanager
def open_tokens(storage: str, database_url: Any = None) -> Iterator[Tokens]:
    """The tokens of a storage's journal."""
    with closing(open_journal(storage, database_url or database_url_from_environment())) as journal:
        yield Tokens(journal.database)


def serve_until_interrupted(
    config: str | None,
    storage: str | None,
    host: str | None,
    port: int | None,
    tell: Callable[[str], None],
) -> None:
    """Deploys and waits for SIGINT or SIGTERM, then takes the service down.

    Raises:
        UserError: a mistake in the configuration, a public address without a token, or a service
            that does not start.
    """
    from atgen_ray.serving.application import parse_service

    tree = read_serve_config(config, storage, host, port)
    options = tree["http_options"]
    args = tree["applications"][0]["args"]
    service = parse_service(args)
    with open_tokens(service.storage, service.database_url) as tokens:
        check_address(options["host"], tokens)
        if not tokens.exists("admin"):
            tell(
                "no token yet: `atgen-ray token create --role admin` makes one; until then every "
                "request gets 401"
            )
    with (
        _serve_session(tree),
        stop_on_signal() as stop,
    ):  # in this order: Ray sets handlers of its own
        if has_open_ports():
            tell(
                "Ray asks for no token: whoever reaches its ports can run code here; "
                "RAY_AUTH_MODE=token closes them"
            )
        with watch_waiting(lambda waiting: tell(waiting or "Ray has found room for every part")):
            _wait_until_running(stop)
        if not stop.is_set():
            tell(f"serving on http://{options['host']}:{options['port']}")
        stop.wait()


def read_serve_config(
    config: str | None, storage: str | None, host: str | None, port: int | None
) -> dict[str, Any]:
    """A configuration of Ray Serve as plain data, with what the command line says put into it.

    Raises:
        UserError: it cannot be read, is not one of Serve, or its first application is not ours.
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
    options = {"host": HOST, "port": PORT} | dict(tree.get("http_options") or {})
    given = {"host": host, "port": port}
    tree["http_options"] = options | {
        key: value for key, value in given.items() if value is not None
    }
    return dict(tree)


@contextmanager
def _serve_session(tree: dict[str, Any]) -> Iterator[None]:
    """The service deployed in the cluster at RAY_ADDRESS, or in one of its own that ends with
    it.
    """
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.config import ProxyLocation
    from ray.serve.schema import ServeDeploySchema

    with ray_session("serve", log_to_driver=True):
        schema = ServeDeploySchema.model_validate(tree)
        location = ProxyLocation(tree.get("proxy_location", ProxyLocation.EveryNode))
        client = serve_start(http_options=schema.http_options.model_dump(), proxy_location=location)
        client.deploy_apps(schema, _blocking=False)
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
    """The line of a traceback that says what was wrong."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if "Error" in line),
        lines[-1] if lines else "no reason given",
    )
