"""Lists among many cases: the index of the cases is in their order, and SQLite knows how many rows a value stands in.

It takes each column of an index for one that leaves few rows, and went through all resources of a type to find those of
a case.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
# Table, index, rows of the table, rows with one value of the first column, of the first two …: about those of 100,000
# cases (https://www.sqlite.org/fileformat2.html#the_sqlite_stat1_table), but of resources no more than SQLite takes
# other tables to have, or it would begin with those. Who runs ANALYZE has the store's own counts instead.
COUNTED = (
    ("resource", "ix_resource_created", "1000000 100000 100000"),
    ("case_state", "ix_case_state_ended", "100000 50000 1"),
    ("case_state", "ix_case_state_stage", "100000 10000 10000 1"),
    ("case_need", "ix_case_need_rid", "10000 1"),
)


def upgrade() -> None:
    for name, *columns in (("ix_case_state_ended", "ended"), ("ix_case_state_stage", "stage", "ended")):
        op.drop_index(name, "case_state")
        op.create_index(name, "case_state", [*columns, sa.text("rid DESC")])
    if op.get_bind().dialect.name != "sqlite":
        return  # PostgreSQL counts by itself
    op.execute("ANALYZE sqlite_schema")  # makes the table of statistics, which nothing else may
    for table, index, counts in COUNTED:
        op.execute(f"DELETE FROM sqlite_stat1 WHERE idx = '{index}'")
        op.execute(f"INSERT INTO sqlite_stat1 VALUES ('{table}', '{index}', '{counts}')")
