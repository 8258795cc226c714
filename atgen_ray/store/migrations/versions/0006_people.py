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
