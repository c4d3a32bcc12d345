"""When an EHR last did something is found without what happened to its Tasks since."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("ehr_work", sa.Column("done", sa.BigInteger, nullable=False, server_default="0"))
    op.drop_index("ix_ehr_work_place", "ehr_work")
    op.create_index("ix_ehr_work_place", "ehr_work", ["place", "state", "done"])
    # The rows are made anew at the next start (service/ledger): those of deliveries that were given up stood as open.
    op.execute("DELETE FROM reached WHERE name = 'ledger'")
