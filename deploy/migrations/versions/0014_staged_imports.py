"""Imports are staged in batches: when the last one was, when all were, and when a worker took the import up.

An import that was staged before counts as taken up: what it waits for is known only to its workflow.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.add_column("imports", sa.Column("touched_at", _INSTANT, server_default=now, nullable=False))
    op.add_column("imports", sa.Column("staged_at", _INSTANT, nullable=True))
    op.add_column("imports", sa.Column("started_at", _INSTANT, nullable=True))
    op.add_column("imports", sa.Column("content", sa.Text(), nullable=True))
    op.execute("UPDATE imports SET staged_at = created_at, started_at = created_at, touched_at = created_at")


def downgrade() -> None:
    op.execute("DELETE FROM imports WHERE staged_at IS NULL AND started_at IS NULL")
    for name in ("content", "started_at", "staged_at", "touched_at"):
        op.drop_column("imports", name)
