"""The audit log; sessions, scopes, rotation and limits of tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

KEPT = (
    "sequence",
    "time",
    "channel",
    "action",
    "of_run",
    "target",
    "result",
    "who_digest",
    "previous",
    "digest",
)


def upgrade() -> None:
    for column in (
        sa.Column("scopes", sa.JSON()),
        sa.Column("old_digest", sa.String()),
        sa.Column("old_until", sa.Double()),
        sa.Column("minute_requests", sa.Integer()),
        sa.Column("day_tokens", sa.BigInteger()),
    ):
        op.add_column("tokens", column)
    op.add_column("invites", sa.Column("token_days", sa.Double()))
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("token_digest", sa.String(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["token"], ["tokens.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sessions_by_token", "sessions", ["token", "created"])
    op.create_table(
        "token_usage",
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["token"], ["tokens.id"]),
        sa.PrimaryKeyConstraint("token", "day"),
    )
    _add_audit_log()


def _add_audit_log() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("of_run", sa.String()),
        sa.Column("target", sa.String()),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("who", sa.JSON()),
        sa.Column("salt", sa.String()),
        sa.Column("who_digest", sa.String(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("audit_by_time", "audit", ["time"])
    op.create_index("audit_by_run", "audit", ["of_run", "sequence"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO audit_head (id, sequence, digest) VALUES (1, 0, '')")
    if op.get_bind().dialect.name == "sqlite":
        _add_sqlite_triggers()
    else:
        _add_postgresql_triggers()


def _add_sqlite_triggers() -> None:
    """Refuse every change of an entry but the removal of who it was."""
    refusal = "BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END"
    columns = ", ".join((*KEPT, "detail"))
    op.execute(f"CREATE TRIGGER audit_kept BEFORE UPDATE OF {columns} ON audit {refusal}")
    op.execute(
        f"CREATE TRIGGER audit_redacted BEFORE UPDATE ON audit WHEN NEW.who IS NOT NULL {refusal}"
    )
    op.execute(f"CREATE TRIGGER audit_whole BEFORE DELETE ON audit {refusal}")
    op.execute(f"CREATE TRIGGER audit_head_stays BEFORE DELETE ON audit_head {refusal}")


def _add_postgresql_triggers() -> None:
    """Refuse every change of an entry but the removal of who it was."""
    kept = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in KEPT)
    op.execute(
        "CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'UPDATE' THEN "
        f"IF NOT ({kept} OR NEW.detail::text <> OLD.detail::text OR NEW.who IS NOT NULL) "
        "THEN RETURN NEW; END IF; END IF; "
        "RAISE EXCEPTION 'the audit log is only appended to'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION keep_audit()"
    )
    op.execute(
        "CREATE TRIGGER audit_whole BEFORE TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION keep_audit()"
    )
    op.execute(
        "CREATE TRIGGER audit_head_stays BEFORE DELETE ON audit_head "
        "FOR EACH ROW EXECUTE FUNCTION keep_audit()"
    )
