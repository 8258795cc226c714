"""People: what their tokens may see, and the examples that are kept for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires", sa.Double()))
    op.add_column("tokens", sa.Column("runs", sa.JSON()))
    op.add_column("tokens", sa.Column("member_of", sa.JSON()))
    op.create_table(
        "assignees",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run", "example_id"],
            ["tasks.run", "tasks.example_id"],
        ),
        sa.PrimaryKeyConstraint("run", "example_id", "who"),
    )
    # What is shown beside an input, and the guidelines that people had.
    op.add_column("tasks", sa.Column("context", sa.JSON()))
    op.add_column("tasks", sa.Column("window", sa.Integer()))
    op.add_column("assignments", sa.Column("guidelines", sa.Integer()))
    op.create_table(
        "guidelines",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.JSON(), nullable=False),
        sa.Column("reason", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "version"),
    )
    op.create_table(
        "remarks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("text", sa.JSON(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("closed", sa.Double()),
        sa.Column("version", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["run", "example_id"],
            ["tasks.run", "tasks.example_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("remarks_by_run", "remarks", ["run", "closed"])
