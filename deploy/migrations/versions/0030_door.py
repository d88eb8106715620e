"""The HTTP door: which messages came in, what it counted, when tokens were used, and whom parameters are for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("book_id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(collation="C"), primary_key=True),
        sa.Column("message_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", JSONB(), nullable=True),
        sa.Column("token_id", sa.Text(collation="C"), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
    )
    op.create_index("inbox_received", "inbox", ["kind", "received_at"])
    op.create_table(
        "door_minutes",
        sa.Column("minute", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("kind", sa.Text(collation="C"), primary_key=True),
        sa.Column("process", sa.Text(collation="C"), primary_key=True),
        sa.Column("counts", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
    )
    op.create_index("door_minutes_kind", "door_minutes", ["kind", "minute"])
    op.create_table(
        "parameter_modes",
        sa.Column("book_id", sa.Text(), primary_key=True),
        sa.Column("since", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["book_id"], ["books.book_id"]),
    )
    op.add_column("api_tokens", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("api_tokens", "last_used_at")
    op.drop_table("parameter_modes")
    op.drop_table("door_minutes")
    op.drop_table("inbox")
