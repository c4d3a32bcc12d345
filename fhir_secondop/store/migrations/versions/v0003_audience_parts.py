"""Who is in a case's audience sees a part of it, and may see it for a time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Who had a case before saw all of it; nobody loses what they work with by an upgrade.
    op.add_column("audience", sa.Column("part", sa.String(16), nullable=False, server_default="record"))
    op.add_column("audience", sa.Column("until", sa.BigInteger, nullable=True))
    with op.batch_alter_table("audience") as table:
        table.alter_column("part", server_default=None)
