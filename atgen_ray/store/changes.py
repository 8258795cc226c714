"""Entries of the audit log for what is done outside the service: by the command line and by
programs that import the package.

Example:
    with audited(journal, "remove run", run=name):
        remove_run(journal, storage, name)
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atgen_ray.store.audit import AuditLog, Entry, Who
from atgen_ray.store.channel import CHANNEL
from atgen_ray.store.database import Database
from atgen_ray.store.owner import name_user


@contextmanager
def audited(
    database: Database, action: str, run: str | None = None, target: str | None = None, **said: Any
) -> Iterator[dict[str, Any]]:
    """Enter that `action` began, and after the block how it ended: ok, or the class of its error.

    Args:
        said: counts and ids of the first entry; the block may add to the dictionary that it gets,
            for the second one (`target` and `run` replace those given).

    Raises:
        StorageUnavailableError: the first entry cannot be written; nothing was done.
    """
    log = AuditLog(database)
    who = Who(person=name_user(), address=socket.gethostname())
    channel = CHANNEL.get()
    number = log.append([Entry(channel, action, who, "begun", run, target, said)]).sequence
    found: dict[str, Any] = {}
    result = "ok"
    try:
        yield found
    except BaseException as error:
        result = f"failed: {type(error).__name__}"
        raise
    finally:
        detail = {"of": number} | found
        run, target = detail.pop("run", run), detail.pop("target", target)
        log.append([Entry(channel, action, who, result, run, target, detail)])
