"""Callers with a valid token, and what they may do."""

from dataclasses import dataclass
from typing import Any

from atgen_ray.serving.security.grants import StoredRole


@dataclass(frozen=True)
class Caller:
    """Caller with a valid token: the token's public id, its role, and the person it was made for.

    Tokens with the same label belong to one person. A token without a label is a person of its own,
    named by its id. `runs` are those that the caller may see (None: all), `groups` those that the
    person belongs to, `scopes` what the token may do beside what its role may. `credential` is what
    let the caller in, for `Tokens.is_active`.
    """

    id: str
    role: StoredRole
    name: str
    runs: tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    minute_requests: int | None = None
    day_tokens: int | None = None
    credential: str = ""
    session: str | None = None

    def may_see(self, run: str) -> bool:
        """Return whether the run was shared with the caller, whether or not it exists."""
        return self.runs is None or any(covers(name, run) for name in self.runs)

    def may_use(self, scope: str) -> bool:
        """Return whether the caller may do what `scope` names."""
        return self.role == "admin" or scope in self.scopes

    @property
    def sees_money(self) -> bool:
        """Return whether settings, dollars and messages of runs are for the caller."""
        return self.may_use("runs")


def is_valid(row: Any, digest_: str, now: float) -> bool:
    """Return whether the row of a token lets in whoever showed the secret of this digest."""
    if row.revoked or (row.expires is not None and row.expires <= now):
        return False
    return bool(
        row.digest == digest_ or (row.old_digest == digest_ and (row.old_until or 0.0) > now)
    )


def make_caller(row: Any, credential: str, session: str | None = None) -> Caller:
    """Return the caller of a row of a token."""
    return Caller(
        id=row.id,
        role=row.role,
        name=row.label or row.id,
        runs=None if row.runs is None else tuple(row.runs),
        groups=tuple(row.member_of or ()),
        scopes=tuple(row.scopes or ()),
        minute_requests=row.minute_requests,
        day_tokens=row.day_tokens,
        credential=credential,
        session=session,
    )


def covers(name: str, run: str) -> bool:
    """Return whether `name`, of a run or as `news-*` of a project's runs, stands for the run."""
    return run.startswith(name[:-1]) if name.endswith("*") else run == name
