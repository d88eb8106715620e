"""What keeps failing for one book or proposal is on record until it succeeds."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "failing_work",
        sa.Column("task", sa.Text(collation="C"), primary_key=True),
        sa.Column("subject", sa.Text(collation="C"), primary_key=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
    )
    # What was in force at an instant is asked of those that have ended, too.
    op.create_index(
        "pm_overrides_match_ended",
        "pm_overrides",
        ["book_id", "pattern_key", "action_category", "anchor"],
        postgresql_where=sa.text("status = 'ended'"),
    )


def downgrade() -> None:
    op.drop_index("pm_overrides_match_ended", table_name="pm_overrides")
    op.drop_table("failing_work")
