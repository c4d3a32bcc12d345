"""Who works on this database, and when what is done regularly is due."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "executor",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("beats", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "round",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
