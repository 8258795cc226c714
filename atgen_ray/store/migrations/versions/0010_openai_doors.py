"""Files, fine-tuning jobs and batches of the OpenAI-compatible API."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "api_files",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("upload", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
    )
    op.create_index("api_files_by_time", "api_files", ["created", "id"])
    op.create_table(
        "tuning_jobs",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("tree", sa.JSON(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("halt", sa.String(), nullable=True),
    )
    op.create_index("tuning_jobs_by_run", "tuning_jobs", ["run"], unique=True)
    op.create_index("one_job_per_key", "tuning_jobs", ["by", "key"], unique=True)
    op.create_table(
        "batches",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("errors", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("expires", sa.Double(), nullable=True),
    )
    op.create_index("batches_by_status", "batches", ["status", "created"])
    op.create_index("one_batch_per_key", "batches", ["by", "key"], unique=True)
