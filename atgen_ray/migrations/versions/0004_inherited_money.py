"""What a run's labels cost another run, which it has taken them over from."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.add_column(sa.Column("inherited", sa.BigInteger(), nullable=True))
