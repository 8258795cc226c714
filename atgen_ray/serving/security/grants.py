"""What a token, or an invitation, is to allow: roles, scopes, runs, groups and limits; their
checks, and the entry of a token.
"""

import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import sqlalchemy as sa

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.hashing import digest
from atgen_ray.store.tables import tokens

Role = Literal["admin", "annotator"]
ROLES: tuple[Role, ...] = get_args(Role)
StoredRole = Literal["admin", "annotator", "program"]  # program: its scopes and no more
Scope = Literal["select", "infer", "runs", "annotate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "atgen"
LONGEST_NAME = 60  # characters of a person's or a group's name


@dataclass(frozen=True)
class Grant:
    """What a token is to allow: see `Tokens.create`."""

    role: str
    label: str = ""
    expires: float | None = None
    runs: Sequence[str] | None = None
    groups: Sequence[str] = ()
    scopes: Sequence[str] = ()
    minute_requests: int | None = None
    day_tokens: int | None = None


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret: it is random, so one round of SHA-256 is enough."""
    return digest(secret.encode("utf-8", "surrogatepass"), size=32, algorithm="sha256")


def enter_token(connection: sa.Connection, now: float, grant: Grant) -> str:
    """Enter a token within a transaction and return it; `grant.expires` is a time of the
    database.
    """
    id_ = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    entry = {
        "id": id_,
        "role": grant.role,
        "label": grant.label,
        "digest": hash_secret(secret),
        "revoked": False,
        "created": now,
        "expires": grant.expires,
        "runs": None if grant.runs is None else [*grant.runs],
        "member_of": [*grant.groups] or None,
        "used": None,
        "scopes": [*grant.scopes] or None,
        "minute_requests": grant.minute_requests,
        "day_tokens": grant.day_tokens,
    }
    connection.execute(sa.insert(tokens).values(entry))
    return f"{PREFIX}_{id_}_{secret}"


def settle_scopes(role: str, scopes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the stored role, and the scopes beside it.

    Raises:
        UserError: a scope is unknown, or there is neither role nor scope.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise UserError(
                f"--scope is {scope[:80]!r}, expected {', '.join(SCOPES)}{nearest(scope, SCOPES)}"
            )
    if not role and not scopes:
        raise UserError("neither --role nor --scope is given, expected one of them")
    if role == "admin" or "admin" in scopes:
        return "admin", ()  # who may do everything needs no scope
    implied = "annotator" if "annotate" in scopes else "program"
    left = dict.fromkeys(scope for scope in scopes if scope != "annotate")
    return role or implied, tuple(left)


def check_limit(value: int | None, key: str) -> None:
    """Check that a limit is a positive number or none; raises UserError."""
    if value is not None and not 0 < value < 2**31:
        raise UserError(f"{key} is {value}, expected a number from 1 to {2**31 - 1}")


def check_grant(role: str, runs: Sequence[str] | None, groups: Sequence[str]) -> None:
    """Check what a token, or an invitation, is to allow.

    Raises:
        UserError: the role is unknown, an admin is restricted to runs, or the name of a group is
            none.
    """
    if role not in ROLES:
        raise UserError(
            f"--role is {role[:80]!r}, expected admin or annotator{nearest(role, ROLES)}"
        )
    if role == "admin" and runs is not None:
        raise UserError(
            f"--run is {', '.join(runs)[:80]!r}, but an admin sees all runs; expected --role "
            f"annotator"
        )
    for group in groups:
        check_name(group, "--group")
    for run in runs or ():
        if "*" in run[:-1]:
            raise UserError(f"--run is {run[:80]!r}, expected a name, or its beginning and one *")


def check_name(name: str, key: str) -> str:
    """Return the name of a person or a group as it is stored, in one form of Unicode.

    Raises:
        UserError: it is empty or too long, has characters that cannot be seen, or begins with @,
            which is the mark of groups.
    """
    settled = unicodedata.normalize("NFKC", name).strip()
    if not 0 < len(settled) <= LONGEST_NAME or not settled.isprintable() or settled[0] == "@":
        raise UserError(
            f"{key} is {name[:80]!r}, expected 1 to {LONGEST_NAME} printable characters, the first "
            f"of them not @"
        )
    return settled


def to_iso(time: float | None) -> str | None:
    """Return a time in seconds since 1970 as UTC, ISO 8601."""
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
