"""A heartbeat that is kept says how it went and when, so that health can be of the last days and of an earlier time."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = "producer_heartbeats"
    op.add_column(table, sa.Column("happened_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(table, sa.Column("successes", sa.Integer(), nullable=True))
    op.add_column(table, sa.Column("failures", sa.Integer(), nullable=True))
    op.add_column(table, sa.Column("error", sa.Text(), nullable=True))
    op.create_index("producer_heartbeats_at", table, ["at"])


def downgrade() -> None:
    op.drop_index("producer_heartbeats_at", "producer_heartbeats")
    for column in ("error", "failures", "successes", "happened_at"):
        op.drop_column("producer_heartbeats", column)
