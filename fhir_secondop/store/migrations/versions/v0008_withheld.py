"""What a blind reader does not see."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "withheld",
        sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.String(64), nullable=False),
    )
    op.create_index("ix_withheld_case", "withheld", ["case_id"])
