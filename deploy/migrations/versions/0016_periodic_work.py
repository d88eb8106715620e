"""For which period daily work was done last is on record, so that it is found due whenever the stack is awake."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "periodic_work",
        sa.Column("task", sa.Text(), primary_key=True),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("periodic_work")
