"""What a run given over HTTP may not ask for: code, secret files and addresses of its caller's choice.

The same settings are free to whoever starts a run from the command line, with the rights of their own account.
"""

from collections.abc import Iterator
from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.errors import UserError
from atgen_ray.serving.data_roots import check_location

# Trees in which the names of the keys are the caller's own.
FREE = ("output_schema", "parameters")


def confine(tree: dict[str, Any], service: ServiceConfig) -> None:
    """Nothing, where the configuration `tree` keeps within what the service allows.

    Raises:
        UserError: it names code to run, a file with a key, options of an engine, which may name code too, or an
            endpoint or an annotating model that is not the service's.
    """
    for key, value in _list_values(tree, ""):
        name = key.rpartition(".")[2]
        if name == "trust_remote_code" and value:
            raise _refuse(key, value, "code of a checkpoint")
        if name == "api_key_file" and value is not None:
            raise _refuse(key, value, "a file of the service's machine")
        if name == "options" and value:
            raise _refuse(key, value, "arguments of an engine, which may name code")
        if name == "base_url" and value is not None and value not in service.base_urls:
            raise UserError(f"{key} is {value[:200]!r}, which is none of the service's base_urls")
        if key.endswith(".model.id"):
            check_location(value, service.data_roots, key)


def _refuse(key: str, value: Any, what: str) -> UserError:
    shown = "true" if value is True else repr(value)[:200]
    return UserError(f"{key} is {shown}: a run given over HTTP must not name {what}")


def _list_values(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict) and name not in FREE:
            yield from _list_values(value, f"{prefix}{name}.")
