"""Lessons keep what they were weighed against; those mined before have none until they are mined anew."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("learning_lessons", sa.Column("evidence", JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("learning_lessons", "evidence")
