"""An EHR that does not answer, or that somebody paused, is left alone by all workers."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "ehr_circuit",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("trips", sa.Integer, nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("why", sa.String(32), nullable=False),
        sa.Column("probe", sa.String(128), nullable=False),
        sa.Column("probe_until", sa.BigInteger, nullable=False),
        sa.Column("paused", sa.BigInteger, nullable=False),
        sa.Column("paused_by", sa.Text, nullable=False),
        sa.Column("paused_why", sa.Text, nullable=False),
    )
