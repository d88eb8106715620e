"""Positions that cannot be read are remembered, and what a learner keeps failing on is tried ever more seldom."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "unreadable_positions",
        sa.Column("row_key", sa.Text(collation="C"), primary_key=True),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", _INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False),
    )
    op.add_column("unlearned", sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("unlearned", sa.Column("next_attempt_at", _INSTANT, nullable=True))


def downgrade() -> None:
    op.drop_column("unlearned", "next_attempt_at")
    op.drop_column("unlearned", "attempts")
    op.drop_table("unreadable_positions")
