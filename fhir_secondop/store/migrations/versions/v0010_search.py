"""Numbers, quantities and URIs are searched; composites; and it is known by which parameters the index was made."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_ordered = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for name in ("token", "string", "date", "reference"):
        op.add_column(f"ix_{name}", sa.Column("place", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "ix_number",
        sa.Column("rid", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("param", sa.String(64), nullable=False),
        sa.Column("low", _ordered, nullable=False),
        sa.Column("high", _ordered, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("ix_number_low", "ix_number", ["type", "param", "low"])
    op.create_index("ix_number_rid", "ix_number", ["rid"])
    op.create_table(
        "ix_uri",
        sa.Column("rid", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("param", sa.String(64), nullable=False),
        sa.Column("uri", _ordered, nullable=False),
        sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("ix_uri_uri", "ix_uri", ["type", "param", "uri"])
    op.create_index("ix_uri_rid", "ix_uri", ["rid"])
    op.create_table(
        "index_state",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.String(80), nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
    )
    op.create_table(
        "search_list",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("rids", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_search_list_expires", "search_list", ["expires"])
