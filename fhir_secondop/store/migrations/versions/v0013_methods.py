"""A history says PATCH of a patch, and PUT of what a PUT has created."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "version_method",
        sa.Column("rid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("method", sa.String(8), nullable=False),
    )
