"""The longest answer that each request to an annotating model may have."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("requests", sa.Column("output_limit", sa.Integer()))
