"""What the service enters in the audit log, and when.

1. A change by a lead (an admin, or the scope `runs`) is entered before it is made, as `begun`, and
   again with its status. If the first cannot be written, the change is refused; a process that died
   in between leaves an entry that says `begun` and no more.
2. What many people do all day (leases, drafts, answers, questions to models) is counted by token,
   address, run and action, and entered as one line a minute. The receipts of answers, in their own
   tables, are exact meanwhile.
3. What was refused (401, 403) is counted in the same way. The number of its lines is bounded by
   MOST_REFUSALS a minute and DAY_REFUSALS a day, so that strangers cannot fill the disk.
"""

import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import Scope

from atgen_ray.core.errors import StorageUnavailableError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.sessions import SAFE_METHODS
from atgen_ray.store.audit import AuditLog, Entry, Who
from atgen_ray.store.channel import Channel

SECONDS = 60.0  # how long counts wait
MOST_REFUSALS = 20  # lines of refusals in that time
DAY_REFUSALS = 5_000  # lines of refusals a day, by one replica
MOST_IDS = 100  # examples that one line names
DAY = 86_400.0

Kind = Literal["none", "counted", "entered", "exported"]

_RUN = re.compile(r"^/(?:api/v1/runs|runs|annotate)/(?P<run>[^/]+)(?:/tasks/(?P<id>[^/]+)/)?")
_EXPORT = re.compile(r"^/api/v1/(runs/[^/]+/(export|payments)|audit)$")
# Changes of nothing that others see, and what is done all day.
_COUNTED = re.compile(
    r"^/(v1/(chat/completions|completions|embeddings)$|api/v1/select$|api/v1/configs/(check|preview|yaml|plan)$|annotate/[^/]+/preview$"
    r"|api/v1/runs/[^/]+/tasks/(lease|release|[^/]+/(lease|draft|submit|skip|flag|undo|remark))$)"
)
_NAMED = re.compile(r"/(submit|skip|flag|undo|remark)$")  # each example is named

logger = logging.getLogger(__name__)


@dataclass
class Count:
    """How often something was done since `first`, and with which examples."""

    entry: Entry
    first: float
    times: int = 0
    ids: list[str] = field(default_factory=list)


@dataclass
class Pending:
    """A change that was entered as begun."""

    entry: Entry
    sequence: int


def classify(scope: Scope, caller: Caller) -> Kind:
    """Return how a request of `caller` is entered."""
    path = scope["path"]
    if scope["method"] in SAFE_METHODS:
        return "exported" if _EXPORT.match(path) and caller.sees_money else "none"
    # A lead's writes are entered one by one; those of others, whom routes may refuse, are counted.
    return "counted" if _COUNTED.match(path) or not caller.sees_money else "entered"


class Auditor:
    """Writer of the audit log of one replica. Safe to use from threads."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log
        self._lock = threading.Lock()
        self._counts: dict[tuple[Any, ...], Count] = {}
        self._timer: threading.Timer | None = None
        self._day = 0
        self._refusals = 0

    def begin(self, scope: Scope, caller: Caller, address: str | None) -> Pending:
        """Enter a change before it is made; raises StorageUnavailableError."""
        entry = describe(scope, caller, address, "begun")
        return Pending(entry, self.log.append([entry]).sequence)

    def end(self, pending: Pending, scope: Scope, status: int) -> None:
        """Enter how a change ended, with what its route said of it."""
        entry = pending.entry
        said = dict(scope.get("state", {}).get("audit", {}))
        run = said.pop("run", entry.run)
        target = said.pop("target", entry.target)
        detail = {"of": pending.sequence} | said
        self._append(
            [Entry(entry.channel, entry.action, entry.who, str(status), run, target, detail)]
        )

    def enter(self, entry: Entry) -> None:
        """Enter something that was done already."""
        self._append([entry])

    def count(self, scope: Scope, caller: Caller, address: str | None, status: int) -> None:
        """Count something that is done all day. The keys of counts are bounded: a caller may make
        up paths and names of runs, which are answered with an error.
        """
        entry = describe(scope, caller, address, str(status))
        path = scope["path"]
        action = f"{scope['method']} {_shorten(path) if _COUNTED.match(path) else 'elsewhere'}"
        run = entry.run if status < 400 else None
        named = entry.target if status < 400 and _NAMED.search(path) else None
        counted = Entry(entry.channel, action, entry.who, entry.result, run)
        self._count((action, run, caller.id, caller.session, address, status), counted, named)

    def refuse(
        self, scope: Scope, address: str | None, status: int, caller: Caller | None = None
    ) -> None:
        """Count an attempt that was refused: no valid token, or one that may not do this."""
        who = Who(caller.id, caller.name, address) if caller else Who(address=address)
        entry = Entry(
            "http",
            "refused",
            who,
            str(status),
            detail={"path": "/".join(scope["path"].split("/")[:4])},
        )
        key: tuple[Any, ...] = ("refused", status, who.token, address)
        with self._lock:
            lines = sum(each[0] == "refused" for each in self._counts)
            day = int(time.time() // DAY)
            if day != self._day:
                self._day, self._refusals = day, 0
            if key not in self._counts and (
                lines >= MOST_REFUSALS or self._refusals >= DAY_REFUSALS
            ):
                key = ("refused", "others")
                entry = Entry("http", "refused", Who(), "401 or 403", detail={"from": "others"})
            elif key not in self._counts:
                self._refusals += 1
        self._count(key, entry, None)

    def flush(self) -> None:
        """Enter what was counted."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._timer = None
        self._append([_sum_up(count) for count in counts.values()])

    def _count(self, key: tuple[Any, ...], entry: Entry, id_: str | None) -> None:
        with self._lock:
            count = self._counts.setdefault(key, Count(entry, time.time()))
            count.times += 1
            if id_ is not None and len(count.ids) < MOST_IDS:
                count.ids.append(id_)
            if self._timer is None:
                self._timer = threading.Timer(SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def _append(self, entries: list[Entry]) -> None:
        """Enter what was done already: a log that is away cannot undo it."""
        if not entries:
            return
        try:
            head = self.log.append(entries)
        except StorageUnavailableError as error:
            logger.error("%d entries of the audit log are lost: %s", len(entries), error)
        else:
            # Outside the database, where whoever writes the database does not write.
            logger.info("audit log: head %s", head)


def describe(scope: Scope, caller: Caller, address: str | None, result: str) -> Entry:
    """Return the entry of a request, without its body and query."""
    found = _RUN.match(scope["path"])
    channel: Channel = "page" if caller.session is not None else "http"
    who = Who(caller.id, caller.name, address)
    action = f"{scope['method']} {scope['path']}"
    run = found["run"] if found else None
    return Entry(channel, action, who, result, run, found["id"] if found else None)


def note(request: Any, **said: Any) -> None:
    """Say in a route what its entry shall name: `run`, `target`, counts and ids."""
    request.scope.setdefault("state", {}).setdefault("audit", {}).update(said)


def find_address(scope: Scope, proxies: tuple[str, ...]) -> str | None:
    """Return the address of the caller. What X-Forwarded-For says is believed of `proxies` alone:
    the last address in it that is none of theirs.
    """
    client = scope.get("client")
    address = str(client[0]) if client else None
    if address not in proxies:
        return address
    sent = [value for key, value in scope["headers"] if key == b"x-forwarded-for"]
    hops = [hop.strip() for value in sent for hop in value.decode("latin-1").split(",")]
    others = [hop for hop in hops if hop and hop not in proxies]
    return others[-1][:64] if others else address


def _shorten(path: str) -> str:
    """Return a path without names and ids, so that equal actions have equal lines."""
    return re.sub(r"^(/(?:api/v1/runs|annotate)/)[^/]+(?:(/tasks/)[^/]+(?=/))?", _leave_out, path)


def _leave_out(found: re.Match[str]) -> str:
    return f"{found[1]}NAME{found[2] or ''}{'ID' if found[2] else ''}"


def _sum_up(count: Count) -> Entry:
    entry = count.entry
    detail: dict[str, Any] = {"times": count.times, "since": round(count.first, 3)}
    detail |= {"examples": count.ids} if count.ids else {}
    return Entry(
        entry.channel,
        entry.action,
        entry.who,
        entry.result,
        entry.run,
        entry.target,
        detail | dict(entry.detail),
    )
