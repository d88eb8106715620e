"""A book has one currency, the first that a close states."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("books", sa.Column("currency", sa.Text(), nullable=True))
    op.add_column("positions", sa.Column("currency", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("positions", "currency")
    op.drop_column("books", "currency")
