"""What a gathering has finished of its parts, and how much each EHR was asked."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "gathered_part",
        sa.Column("task_id", sa.String(64), primary_key=True),
        sa.Column("part", sa.String(300), primary_key=True),
        sa.Column("said", sa.Text, nullable=False),
    )
    op.create_table(
        "ehr_limit",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("next_ms", sa.BigInteger, nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("documents", sa.Integer, nullable=False),
    )
