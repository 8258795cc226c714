"""Sums of requests, and indexes, so that no view of a run reads its history."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# `judge-` begins the ids of answers that a judge is asked about.
_COUNT = """
INSERT INTO request_totals (
    run, round, annotator, judged, state, requests, billed, prompt_tokens, output_tokens, longest
)
SELECT run, round, annotator, example_id LIKE 'judge-%', state, COUNT(*), COUNT(output_tokens),
       COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(output_tokens), 0),
       COALESCE(MAX(output_tokens), 0)
FROM requests GROUP BY run, round, annotator, example_id LIKE 'judge-%', state
"""


def upgrade() -> None:
    op.create_table(
        "request_totals",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("judged", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("billed", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("longest", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "round", "annotator", "judged", "state"),
    )
    op.execute(_COUNT)
    op.create_index("dead_letters_in_order", "dead_letters", ["run", "id"])
    op.create_index("dead_letters_by_step", "dead_letters", ["run", "step", "id"])
    op.create_index("shards_by_round", "shards", ["run", "annotator", "round", "time"])
    no_gold = sa.column("gold").is_(None)
    op.create_index(
        "tasks_by_age",
        "tasks",
        ["run", "state", "changed"],
        sqlite_where=no_gold,
        postgresql_where=no_gold,
    )
