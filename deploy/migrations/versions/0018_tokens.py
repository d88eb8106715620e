"""Tokens of operators, and decisions on record before their workflow is told."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("token_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("books", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("created_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("expires_at", _INSTANT, nullable=True),
        sa.Column("revoked_at", _INSTANT, nullable=True),
    )
    op.create_index(
        "api_tokens_name", "api_tokens", ["name"], unique=True, postgresql_where=sa.text("revoked_at IS NULL")
    )
    op.create_table(
        "operator_decisions",
        sa.Column("decision_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("kind", sa.Text(collation="C"), nullable=False),
        sa.Column("book_id", sa.Text(collation="C"), nullable=False),
        sa.Column("subject_id", sa.Text(collation="C"), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("proposal_hash", sa.Text(), nullable=True),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(collation="C"), nullable=True),
        sa.Column("by_policy", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("recorded_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("sender", sa.Text(), nullable=True),
        sa.Column("word", sa.Text(), nullable=True),
        sa.Column("spent_at", _INSTANT, nullable=True),
        sa.Column("accepted", sa.Boolean(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["token_id"], ["api_tokens.token_id"]),
    )
    op.create_index(
        "operator_decisions_subject", "operator_decisions", ["kind", "book_id", "subject_id", "recorded_at"]
    )
    op.create_index(
        "operator_decisions_unspent",
        "operator_decisions",
        ["recorded_at"],
        postgresql_where=sa.text("spent_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("operator_decisions")
    op.drop_table("api_tokens")
