"""A search goes along indexes however much is stored: the resources of a type by creation, dates by their ends."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_resource_created", "resource", ["type", "deleted"])
    else:
        op.create_index("ix_resource_created_rid", "resource", ["type", "deleted", "rid"])
    op.create_index("ix_date_high", "ix_date", ["type", "param", "high"])
