"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ordered = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _index_table(name: str, *columns: sa.Column) -> None:
    op.create_table(
        name,
        sa.Column("rid", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("param", sa.String(64), nullable=False),
        *columns,
    )
    op.create_index(f"{name}_rid", name, ["rid"])


def upgrade() -> None:
    op.create_table(
        "resource",
        sa.Column("rid", _row_id, primary_key=True, autoincrement=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("case_id", sa.String(64), nullable=True),
        sa.UniqueConstraint("type", "id", name="uq_resource_type_id"),
    )
    op.create_index("ix_resource_case", "resource", ["case_id", "type"])
    op.create_table(
        "version",
        sa.Column("rid", sa.BigInteger, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("updated", sa.BigInteger, nullable=False, unique=True),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("cut", sa.Integer, nullable=False),
        sa.Column("meta", sa.Text, nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
    )
    _index_table("ix_token", sa.Column("system", sa.Text, nullable=False), sa.Column("code", sa.Text, nullable=False))
    op.create_index("ix_token_code", "ix_token", ["type", "param", "code", "system"])
    _index_table(
        "ix_string", sa.Column("folded", _ordered, nullable=False), sa.Column("exact", sa.Text, nullable=False)
    )
    op.create_index("ix_string_folded", "ix_string", ["type", "param", "folded"])
    _index_table(
        "ix_date", sa.Column("low", sa.BigInteger, nullable=False), sa.Column("high", sa.BigInteger, nullable=False)
    )
    op.create_index("ix_date_low", "ix_date", ["type", "param", "low", "high"])
    _index_table(
        "ix_reference",
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("identifier", sa.Text, nullable=False),
    )
    op.create_index("ix_reference_target", "ix_reference", ["target", "type", "param"])
    op.create_index("ix_reference_identifier", "ix_reference", ["identifier", "type", "param"])
    clock = op.create_table("clock", sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.BigInteger))
    op.bulk_insert(clock, [{"id": 1, "at": 0}])
    op.create_table(
        "intake",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("case_id", sa.String(64), nullable=False),
    )
    op.create_table(
        "audience",
        sa.Column("case_id", sa.String(64), primary_key=True),
        sa.Column("party", sa.Text, primary_key=True),
    )
    op.create_index("ix_audience_party", "audience", ["party"])
