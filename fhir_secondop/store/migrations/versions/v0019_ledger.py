"""Deliveries and gatherings are found over all cases."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "ehr_work",
        sa.Column("task_id", sa.String(64), primary_key=True),
        sa.Column("case_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("authored", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_ehr_work_state", "ehr_work", ["state", "authored", "task_id"])
    op.create_index("ix_ehr_work_place", "ehr_work", ["place", "state", "changed"])
    op.create_index("ix_ehr_work_case", "ehr_work", ["case_id"])
