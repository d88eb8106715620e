"""One decision for every subject: an override that waits for an operator says until when."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pm_overrides", sa.Column("deadline", sa.DateTime(timezone=True), nullable=True))
    # Until now only the workflow knew: 72 hours, unless the policy said otherwise. What it waits for still counts.
    op.execute("UPDATE pm_overrides SET deadline = created_at + interval '72 hours' WHERE status = 'pending'")
    op.execute("UPDATE pm_overrides SET deadline = decided_at WHERE verdict IS NOT NULL")
    op.create_index(
        "pm_overrides_waiting", "pm_overrides", ["deadline"], postgresql_where=sa.text("status = 'pending'")
    )


def downgrade() -> None:
    op.drop_index("pm_overrides_waiting", table_name="pm_overrides")
    op.drop_column("pm_overrides", "deadline")
