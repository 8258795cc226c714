"""Tokens of models by caller with what they cost, and files that expire."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("by", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("nano", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "trained_usage",
        sa.Column("job", sa.String(), primary_key=True),
        sa.Column("round", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("nano", sa.BigInteger(), nullable=False),
    )
    op.create_index("trained_usage_by_caller", "trained_usage", ["by", "day"])
    op.add_column("api_files", sa.Column("expires", sa.Double(), nullable=True))
    op.add_column("tuning_jobs", sa.Column("price", sa.Double(), nullable=True))
