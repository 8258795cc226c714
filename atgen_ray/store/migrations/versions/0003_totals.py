"""Totals of runs, counted from the labels and the ledger that are there.

The ledger learns what another run paid, whose labels were taken over; so far no run had taken over
any.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COUNT = """
INSERT INTO totals (run, round, labels, paid, held, unledgered, inherited)
SELECT run, round, SUM(labels), SUM(paid), SUM(held), SUM(unledgered), 0 FROM (
    SELECT run, round, COUNT(*) AS labels, 0 AS paid, 0 AS held, 0.0 AS unledgered
    FROM annotations GROUP BY run, round
    UNION ALL
    SELECT run, round, 0, SUM(COALESCE(paid, 0)),
           SUM(CASE WHEN paid IS NULL THEN held ELSE 0 END), 0.0
    FROM ledger GROUP BY run, round
    UNION ALL
    SELECT run, round, 0, 0, 0, SUM(dollars)
    FROM annotations WHERE NOT EXISTS (
        SELECT 1 FROM ledger
        WHERE ledger.run = annotations.run AND ledger.example_id = annotations.example_id
    ) GROUP BY run, round
) AS counted GROUP BY run, round
"""


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("labels", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("unledgered", sa.Double(), nullable=False),
        sa.Column("inherited", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "round"),
    )
    op.create_index("ledger_examples", "ledger", ["run", "example_id"])
    op.execute(_COUNT)
    with op.batch_alter_table("ledger") as batch:
        batch.add_column(sa.Column("inherited", sa.BigInteger(), nullable=True))
