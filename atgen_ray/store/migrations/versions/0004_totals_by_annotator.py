"""Totals of runs by annotator too, and indexes by round, so that nothing that a run does in a round
reads its history.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COUNT = """
INSERT INTO totals (
    run, round, annotator, labels, entries, paid, held, inherited, outside, unledgered
)
SELECT run, round, annotator, SUM(labels), SUM(entries), SUM(paid), SUM(held), SUM(inherited),
       SUM(outside), SUM(unledgered) FROM (
    SELECT run, round, annotator, COUNT(*) AS labels, 0 AS entries, 0 AS paid, 0 AS held,
           0 AS inherited, 0 AS outside, 0.0 AS unledgered
    FROM annotations GROUP BY run, round, annotator
    UNION ALL
    SELECT run, round, annotator, 0, COUNT(*), SUM(COALESCE(paid, 0)),
           SUM(CASE WHEN paid IS NULL THEN held ELSE 0 END), SUM(COALESCE(inherited, 0)), 0, 0.0
    FROM ledger GROUP BY run, round, annotator
    UNION ALL
    SELECT run, round, annotator, 0, 0, 0, 0, 0, COUNT(*), SUM(dollars)
    FROM annotations WHERE NOT EXISTS (
        SELECT 1 FROM ledger
        WHERE ledger.run = annotations.run AND ledger.example_id = annotations.example_id
    ) GROUP BY run, round, annotator
) AS counted GROUP BY run, round, annotator
"""


def upgrade() -> None:
    op.drop_table("totals")
    op.create_table(
        "totals",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("labels", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("outside", sa.BigInteger(), nullable=False),
        sa.Column("unledgered", sa.Double(), nullable=False),
        sa.Column("inherited", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "round", "annotator"),
    )
    op.create_index("annotations_by_round", "annotations", ["run", "round", "id"])
    op.create_index("ledger_rounds", "ledger", ["run", "round", "annotator"])
    under_way = ~sa.column("done", sa.Boolean())
    op.create_index(
        "open_shards",
        "shards",
        ["run", "time"],
        sqlite_where=under_way,
        postgresql_where=under_way,
    )
    op.execute(_COUNT)
