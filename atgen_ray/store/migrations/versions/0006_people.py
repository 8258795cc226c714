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
    op.create_index("assignees_by_person", "assignees", ["run", "who", "example_id"])

    # The desk: tasks that are only prepared, changes of answers and labels, receipts by age.
    op.add_column("assignments", sa.Column("opened", sa.Double()))
    op.create_index(
        "assignments_by_person", "assignments", ["run", "annotator", "answered", "state"]
    )
    op.create_index(
        "leases",
        "assignments",
        ["run", "annotator", "until"],
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_index("receipts_by_time", "receipts", ["run", "annotator", "time"])
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("annotator", sa.String()),
        sa.Column("before", sa.JSON()),
        sa.Column("after", sa.JSON()),
        sa.Column("reason", sa.JSON()),
        sa.Column("round", sa.Integer()),
        sa.Column("time", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("revisions_by_example", "revisions", ["run", "example_id", "id"])
    op.create_index(
        "changed_labels",
        "revisions",
        ["run", "id"],
        sqlite_where=sa.text("round IS NOT NULL"),
        postgresql_where=sa.text("round IS NOT NULL"),
    )
    op.add_column("tasks", sa.Column("collected", sa.Double()))
    op.execute("UPDATE tasks SET collected = changed WHERE state IN ('taken', 'buried')")
    # Leases of an earlier version were all in hand.
    op.execute("UPDATE assignments SET opened = leased")

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
