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
    # Titles and archive of runs, the runs of a service, and invitations.
    op.add_column("runs", sa.Column("title", sa.String()))
    op.add_column("runs", sa.Column("archived", sa.Double()))
    op.add_column("runs", sa.Column("served", sa.Boolean()))
    op.add_column("tokens", sa.Column("used", sa.Double()))
    op.create_index("assignments_by_annotator", "assignments", ["run", "annotator", "answered"])
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
