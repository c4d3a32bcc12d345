"""Alerts: what stands beyond a bound, and what people are told of it."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.Column("began", sa.BigInteger, nullable=True),
        sa.Column("gone", sa.BigInteger, nullable=True),
        sa.Column("ended", sa.BigInteger, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("bound", sa.BigInteger, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("told", sa.BigInteger, nullable=True),
        sa.Column("acknowledged", sa.BigInteger, nullable=True),
        sa.Column("acknowledged_by", sa.Text, nullable=False),
        sa.UniqueConstraint("kind", "subject", "ended", name="uq_alert_standing"),
    )
    op.create_index("ix_alert_ended", "alert", ["ended"])
    op.create_table(
        "alert_message",
        sa.Column("n", _ROW, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("alert", sa.String(36), nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("sent", sa.BigInteger, nullable=True),
        sa.Column("why", sa.Text, nullable=False),
    )
    op.create_index("ix_alert_message_state", "alert_message", ["state", "next"])
    op.create_index("ix_alert_message_alert", "alert_message", ["alert"])
