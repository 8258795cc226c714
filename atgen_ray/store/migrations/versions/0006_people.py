"""People: what their tokens may see, and the examples that are kept for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires", sa.Double()))
    op.add_column("tokens", sa.Column("runs", sa.JSON()))
    op.add_column("tokens", sa.Column("member_of", sa.JSON()))
    op.add_column("tasks", sa.Column("most", sa.Integer()))
    op.add_column("tasks", sa.Column("price", sa.BigInteger()))
    op.add_column("tasks", sa.Column("gold", sa.JSON()))
    gold = sa.text("gold IS NOT NULL")
    op.create_index("gold_tasks", "tasks", ["run"], sqlite_where=gold, postgresql_where=gold)
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
    _add_guidelines()
    _add_task_list()
    _add_served_runs()


def _add_guidelines() -> None:
    """Add what is shown beside an input, and the guidelines that people had."""
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


def _add_task_list() -> None:
    """Add what the task list, bulk actions and reviews need."""
    for column in (
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("score", sa.Double()),
        sa.Column("agreement", sa.Double()),
        sa.Column("fields", sa.JSON()),
    ):
        op.add_column("tasks", column)
    _fill_scores()
    queue = ["priority", "round", "rank", "example_id"]
    op.drop_index("open_tasks", "tasks")
    op.create_index("tasks_by_state", "tasks", ["run", "state", *queue])
    op.create_index("tasks_in_order", "tasks", ["run", *queue])
    for name, key in (("change", "changed"), ("score", "score"), ("agreement", "agreement")):
        op.create_index(f"tasks_by_{name}", "tasks", ["run", key, "example_id"])
    op.create_index("assignments_by_state", "assignments", ["run", "state", "example_id"])
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("text", sa.JSON(), nullable=False),
        sa.Column("comment", sa.JSON(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("drawn", sa.Boolean(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("reviews_by_task", "reviews", ["run", "example_id", "id"])
    op.create_table(
        "bulk_actions",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("tasks", sa.Integer(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("undone", sa.Double()),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "number"),
    )
    op.create_table(
        "bulk_tasks",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run", "number"], ["bulk_actions.run", "bulk_actions.number"]),
        sa.PrimaryKeyConstraint("run", "number", "example_id"),
    )


def _fill_scores() -> None:
    """Copy the scores of the tasks that are there out of the reasons why they were picked."""
    tasks = sa.table(
        "tasks",
        sa.column("run", sa.String()),
        sa.column("example_id", sa.String()),
        sa.column("why", sa.JSON()),
        sa.column("score", sa.Double()),
    )
    picked = tasks.c.why["score"].as_float()
    known = sa.cast(tasks.c.why, sa.Text()).like("{%")  # not null, in SQL or in JSON
    op.execute(sa.update(tasks).where(known).values(score=picked))


def _add_served_runs() -> None:
    """Add titles and archive of runs, the runs of a service, and invitations."""
    op.add_column("runs", sa.Column("title", sa.String()))
    op.add_column("runs", sa.Column("archived", sa.Double()))
    op.add_column("runs", sa.Column("served", sa.Boolean()))
    op.add_column("tokens", sa.Column("used", sa.Double()))
    op.create_table(
        "invites",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("runs", sa.JSON()),
        sa.Column("member_of", sa.JSON()),
        sa.Column("person", sa.String()),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
