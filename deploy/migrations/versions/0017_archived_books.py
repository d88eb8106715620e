"""A book can be archived: what it has stays, and it takes in nothing more."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("books", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("books", sa.Column("archived_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("books", "archived_by")
    op.drop_column("books", "archived_at")
