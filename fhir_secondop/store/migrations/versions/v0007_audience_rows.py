"""A party may stand in a case's audience for both parts: the record for a time, the report without end."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Made anew and filled: a primary key has no name on SQLite by which it could be replaced.
    op.drop_index("ix_audience_party", table_name="audience")
    op.rename_table("audience", "audience_before")
    made = op.create_table(
        "audience",
        sa.Column("case_id", sa.String(64), nullable=False),
        sa.Column("party", sa.Text, nullable=False),
        sa.Column("part", sa.String(16), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("case_id", "party", "part", name="pk_audience"),
    )
    before = sa.table("audience_before", *(sa.column(c.name) for c in made.c))
    op.execute(sa.insert(made).from_select([c.name for c in made.c], sa.select(before)))
    op.drop_table("audience_before")
    op.create_index("ix_audience_party", "audience", ["party"])
