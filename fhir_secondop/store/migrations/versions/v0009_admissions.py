"""Who is let in to a case, or loses it, has rows in the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("audit", sa.Column("party", sa.Text, nullable=True))
    op.add_column("audit", sa.Column("part", sa.String(16), nullable=True))
    op.add_column("audit", sa.Column("until", sa.BigInteger, nullable=True))
