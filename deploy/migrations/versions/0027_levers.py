"""Levers that were given, and contexts of closes that are filled in from them or from states on record."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def _instant(name: str, default: sa.TextClause | None = None) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=False)


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "market_levers",
        sa.Column("levers_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("book_id", sa.Text(), nullable=False),
        _instant("as_of"),
        _instant("given_at", now),
        sa.Column("request", JSONB(), nullable=False),
        sa.Column("answer", JSONB(), nullable=False),
        sa.Column("states", JSONB(), nullable=False),
        sa.Column("a_value", sa.Double(), nullable=False),
        sa.Column("e_value", sa.Double(), nullable=False),
        sa.Column("known_then", sa.Boolean(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
    )
    op.create_index("market_levers_given", "market_levers", ["given_at", "levers_id"])
    op.create_table(
        "market_contexts",
        sa.Column("book_id", sa.Text(), primary_key=True),
        sa.Column("position_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("levers_id", sa.Text(collation="C"), nullable=True),
        _instant("as_of"),
        sa.Column("known_then", sa.Boolean(), nullable=False),
        sa.Column("states", JSONB(), nullable=False),
        sa.Column("a_value", sa.Double(), nullable=True),
        sa.Column("e_value", sa.Double(), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("filled_by", sa.Text(), nullable=False),
        _instant("filled_at", now),
        sa.ForeignKeyConstraint(["book_id", "position_id"], ["attributions.book_id", "attributions.position_id"]),
        sa.ForeignKeyConstraint(["levers_id"], ["market_levers.levers_id"]),
    )
    op.create_index(
        "market_contexts_levers",
        "market_contexts",
        ["levers_id"],
        postgresql_where=sa.text("levers_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("market_contexts")
    op.drop_table("market_levers")
