"""An identifier of a reference is a token since index form 2: the column that it stood in, and its index, are gone."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.drop_index("ix_reference_identifier", table_name="ix_reference")
    op.drop_column("ix_reference", "identifier")
