"""Cases are found by where they stand and by what in them needs a person."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_table(
        "case_state",
        sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.String(64), nullable=False, unique=True),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
    )
    op.create_index("ix_case_state_ended", "case_state", ["ended", "rid"])
    op.create_index("ix_case_state_stage", "case_state", ["stage", "rid"])
    op.create_table(
        "case_need",
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
    )
    op.create_index("ix_case_need_rid", "case_need", ["rid"])
