"""Audit log: who changed what, when, and how it ended, in entries that hash the one before.

- `append` writes entries in one transaction that locks the head of the chain last, so that writers
  in any number of processes wait for each other only while they commit.
- The digest of an entry covers all of it. Token, person and address stand beside it under a salted
  hash, so that a person's name can be removed (`redact`) and the chain still holds.
- `verify` finds a gap, a changed entry and a removed tail against the head in the database. Whoever
  may write the database can write all of it anew: only a head that was kept elsewhere shows that.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from atgen_ray.core.errors import UserError
from atgen_ray.store.channel import Channel
from atgen_ray.store.database import Database
from atgen_ray.store.tables import audit, audit_head

START = ""  # the digest before the first entry
LONGEST = 200  # characters of a text in an entry
PAGE = 1000  # entries that are read at once
HASHED = ("sequence", "time", "channel", "action", "of_run", "target", "result", "detail")


@dataclass(frozen=True)
class Who:
    """Who did something: public id of the token, name of the person, address."""

    token: str | None = None
    person: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Entry:
    """What is entered. `detail` has counts and ids by name, no secrets and no text of a row."""

    channel: Channel
    action: str
    who: Who
    result: str = "ok"
    run: str | None = None
    target: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """The last entry of the chain; number 0 and no digest before there is one."""

    sequence: int
    digest: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest or '-'}"


@dataclass(frozen=True)
class Filter:
    """Which entries are read: from and until a time (seconds since 1970), of a person or token,
    of a run, and with a word in the action.
    """

    since: float | None = None
    until: float | None = None
    who: str | None = None
    run: str | None = None
    what: str | None = None


@dataclass(frozen=True)
class Verification:
    """What `verify` found: entries, those whose person was removed, the head, and what is wrong."""

    entries: int
    redacted: int
    head: Head
    faults: tuple[str, ...]


class AuditLog:
    """The audit log in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, entries: Sequence[Entry]) -> Head:
        """Enter `entries` and return the new head; raises StorageUnavailableError."""
        with self._database.writing() as connection:
            return self.append_within(connection, entries)

    def append_within(self, connection: sa.Connection, entries: Sequence[Entry]) -> Head:
        """Enter `entries` in a transaction that writes. The head is locked from here on, so nothing
        else should follow.
        """
        locked = connection.execute(sa.select(audit_head).with_for_update()).one()
        head = Head(locked.sequence, locked.digest)
        now = self._database.clock(connection)
        rows = []
        for entry in entries:
            row = _make_row(entry, head, now)
            head = Head(row["sequence"], row["digest"])
            rows.append(row)
        if rows:
            connection.execute(sa.insert(audit), rows)
            moved = {"sequence": head.sequence, "digest": head.digest}
            connection.execute(sa.update(audit_head).values(moved))
        return head

    def head(self) -> Head:
        """Return the head of the chain."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(audit_head)).one()
        return Head(row.sequence, row.digest)

    def read(
        self, chosen: Filter | None = None, after: int = 0, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield entries behind number `after`, the oldest first, as plain data."""
        where = _build_filter(chosen or Filter())
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            query = sa.select(audit).where(where & (audit.c.sequence > after))
            with self._database.reading() as connection:
                rows = connection.execute(query.order_by(audit.c.sequence).limit(size)).all()
            yield from (_show(row) for row in rows)
            if len(rows) < size:
                return
            after = rows[-1].sequence
            limit = None if limit is None else limit - size

    def latest(self, chosen: Filter, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return the last `limit` entries, of those before number `before`, the newest first."""
        where = _build_filter(chosen)
        if before is not None:
            where &= audit.c.sequence < before
        query = sa.select(audit).where(where).order_by(audit.c.sequence.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_show(row) for row in connection.execute(query)]

    def verify(self, kept: Head | None = None) -> Verification:
        """Check every entry against the one before, the last one against the head, and the chain
        against `kept`, a head that was noted before.
        """
        head = self.head()
        chain = Chain()
        for row in self.read():
            if row["sequence"] > head.sequence and chain.head == head:
                break  # entered since
            chain.add(row)
            if kept is not None and row["sequence"] == kept.sequence:
                chain.compare(kept, row["digest"])
        if chain.head != head:
            chain.faults.append(
                f"the chain ends with entry {chain.head.sequence}, but the head is {head}"
            )
        if kept is not None and kept.sequence > chain.head.sequence:
            chain.faults.append(
                f"the head that was kept is {kept.sequence}, but the log ends with entry "
                f"{chain.head.sequence}: entries were removed, or an older database was restored"
            )
        return Verification(chain.entries, chain.redacted, chain.head, tuple(chain.faults[:20]))

    def redact(self, person: str) -> int:
        """Take token, name and address of a person out of all entries; return how many there were.

        The chain keeps a hash of them under a salt that is removed too, so it still holds.
        """
        with self._database.writing() as connection:
            return redact_within(connection, person)


def redact_within(connection: sa.Connection, person: str) -> int:
    """Redact a person, as `AuditLog.redact` does, in a transaction that writes."""
    named = audit.c.who["person"].as_string() == person
    gone = sa.update(audit).where(named).values(who=sa.null(), salt=None)
    return connection.execute(gone).rowcount


class Chain:
    """Check of entries, given one after the other, as `AuditLog.read` yields them."""

    def __init__(self) -> None:
        self.head = Head(0, START)
        self.entries = 0
        self.redacted = 0
        self.faults: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Check the next entry and go on from it, right or wrong."""
        sequence = row["sequence"]
        if sequence != self.head.sequence + 1:
            self._blame(f"entries {self.head.sequence + 1} to {sequence - 1} are missing")
        elif row["previous"] != self.head.digest:
            self._blame(f"entry {sequence} does not follow the one before")
        who = {key: row[key] for key in ("token", "person", "address")}
        if row["salt"] is None:
            self.redacted += 1
        elif _hash_who(who, row["salt"]) != row["who_digest"]:
            self._blame(f"entry {sequence} names somebody else than when it was written")
        if hash_entry(row) != row["digest"]:
            self._blame(f"entry {sequence} was changed")
        self.entries += 1
        self.head = Head(sequence, row["digest"])

    def compare(self, kept: Head, digest: str) -> None:
        """Compare a head that was kept with the entry of its number."""
        if kept.digest != digest:
            self._blame(f"entry {kept.sequence} is another than when its digest was kept")

    def _blame(self, fault: str) -> None:
        if len(self.faults) < PAGE:
            self.faults.append(fault)


def parse_head(text: str) -> Head:
    """Return a head that was printed as NUMBER:DIGEST; raises UserError."""
    number, _, digest = text.strip().partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 16 and len(digest) in (1, 64)):
        raise UserError(
            f"--head is {text[:90]!r}, expected NUMBER:DIGEST as `atgen-ray audit --verify` prints "
            f"it"
        )
    return Head(int(number), START if digest == "-" else digest)


def hash_entry(row: Mapping[str, Any]) -> str:
    """Return the digest of an entry: SHA-256 over its JSON and the digest before."""
    values = [row["previous"], *(row[key] for key in HASHED), row["who_digest"]]
    return _hash(values)


def _make_row(entry: Entry, head: Head, now: float) -> dict[str, Any]:
    who = {key: _clean(value) for key, value in asdict(entry.who).items()}
    salt = secrets.token_hex(16)
    row: dict[str, Any] = {
        "sequence": head.sequence + 1,
        "time": round(now, 3),
        "channel": entry.channel,
        "action": _clean(entry.action),
        "of_run": _clean(entry.run),
        "target": _clean(entry.target),
        "result": _clean(entry.result),
        "detail": _clean(dict(entry.detail)),
        "who": who,
        "salt": salt,
        "who_digest": _hash_who(who, salt),
        "previous": head.digest,
    }
    return row | {"digest": hash_entry(row)}


def _clean(value: Any) -> Any:
    """Return a value for the log: short texts of printable characters. Not every database takes a
    NUL, and no JSON a lone surrogate.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        shown = "".join(sign if sign.isprintable() else "?" for sign in text[:LONGEST])
        return shown if len(text) <= LONGEST else f"{shown}..."
    if isinstance(value, Mapping):
        return {str(_clean(str(key))): _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value


def _hash_who(who: Mapping[str, Any], salt: str) -> str:
    return _hash([salt, who["token"], who["person"], who["address"]])


def _hash(values: Sequence[Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def _show(row: Any) -> dict[str, Any]:
    who = row.who or {}
    named = {key: who.get(key) for key in ("token", "person", "address")}
    known = {key: getattr(row, key) for key in HASHED}
    chain = {key: getattr(row, key) for key in ("salt", "who_digest", "previous", "digest")}
    return known | named | chain


def _build_filter(chosen: Filter) -> sa.ColumnElement[bool]:
    where: sa.ColumnElement[bool] = sa.true()
    if chosen.since is not None:
        where &= audit.c.time >= chosen.since
    if chosen.until is not None:
        where &= audit.c.time < chosen.until
    if chosen.run is not None:
        where &= audit.c.of_run == chosen.run
    if chosen.what is not None:
        where &= audit.c.action.contains(chosen.what, autoescape=True)
    if chosen.who is not None:
        who = audit.c.who
        where &= (who["person"].as_string() == chosen.who) | (
            who["token"].as_string() == chosen.who
        )
    return where
