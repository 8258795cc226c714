"""Sessions of browsers, in the database: sign-out ends one there, so that a copied cookie is worth
nothing afterwards.

A cookie holds a secret of its own, `session_<id>_<secret>`, and not the token. A session lives no
longer than the token, nor than the secret of the token with which it was opened: a rotation ends it
with its grace time.
"""

import hmac
import secrets

import sqlalchemy as sa

from atgen_ray.serving.security.callers import Caller, is_valid, make_caller
from atgen_ray.serving.security.grants import hash_secret
from atgen_ray.serving.security.sessions import LIFETIME
from atgen_ray.serving.security.tokens import note_use
from atgen_ray.store.database import Database
from atgen_ray.store.tables import sessions, tokens

PREFIX = "session"
MOST = 20  # sessions of one token; the oldest gives way


class Sessions:
    """The sessions in a database. Safe to use from threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, caller: Caller) -> str:
        """Open a session for a caller who showed a token; return the value of its cookie."""
        id_ = secrets.token_hex(8)
        secret = secrets.token_urlsafe(32)
        mine = sessions.c.token == caller.id
        with self._database.writing() as connection:
            now = self._database.clock(connection)
            connection.execute(sa.delete(sessions).where(sessions.c.expires <= now))
            newest = sa.select(sessions.c.id).where(mine).order_by(sessions.c.created.desc())
            kept = list(connection.execute(newest.limit(MOST - 1)).scalars())
            connection.execute(sa.delete(sessions).where(mine & sessions.c.id.not_in(kept)))
            entry = {
                "id": id_,
                "digest": hash_secret(secret),
                "token": caller.id,
                "token_digest": caller.credential,
                "created": now,
                "expires": now + LIFETIME,
            }
            connection.execute(sa.insert(sessions).values(entry))
        return f"{PREFIX}_{id_}_{secret}"

    def identify(self, cookie: str) -> Caller | None:
        """Return the caller of a cookie; None where the session or its token has ended."""
        prefix, _, rest = cookie.partition("_")
        id_, _, secret = rest.partition("_")
        query = (
            sa.select(tokens, sessions.c.digest.label("session_digest"), sessions.c.token_digest)
            .join(sessions, sessions.c.token == tokens.c.id)
            .where(sessions.c.id == id_)
            .add_columns(sessions.c.expires.label("session_expires"))
        )
        # The database is not asked for what cannot be a session: not every one takes a NUL.
        sane = prefix == PREFIX and id_.isascii() and id_.isalnum()
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none() if sane else None
            now = self._database.clock(connection) if row else 0.0
        same = hmac.compare_digest(
            hash_secret(secret), row.session_digest if row else hash_secret("")
        )
        if not row or not same or row.session_expires <= now:
            return None
        if not is_valid(row, row.token_digest, now):
            return None
        note_use(self._database, row, now)
        return make_caller(row, row.token_digest, id_)

    def close(self, caller: Caller) -> None:
        """End the session that let the caller in, and the streams that it opened."""
        if caller.session is not None:
            ended = sa.delete(sessions).where(sessions.c.id == caller.session)
            with self._database.writing() as connection:
                connection.execute(ended)
