"""research"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "llm_learning",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("module", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dedupe_key"),
    )
    op.create_index("llm_learning_book", "llm_learning", ["book_id", "level", "position_id"], unique=False)
    op.create_table(
        "llm_calls",
        sa.Column("call_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("reserved_usd", sa.Numeric(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("cost_usd", sa.Numeric(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column(
            "reserved_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("call_id"),
    )
    op.create_index("llm_calls_question", "llm_calls", ["dedupe_key"], unique=False)
    op.create_index("llm_calls_reserved_at", "llm_calls", ["reserved_at"], unique=False)
    op.create_table(
        "llm_watermarks",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("studied_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id"),
    )
    op.create_index(
        "attributions_live",
        "attributions",
        ["book_id", "attributed_at"],
        unique=False,
        postgresql_where=sa.text("attributed_by LIKE '________-____-____-____-____________'"),
    )
    # What closed before there was research is not read: it would be paid for first, for weeks.
    op.execute("INSERT INTO llm_watermarks (book_id, studied_until) SELECT book_id, clock_timestamp() FROM books")


def downgrade() -> None:
    op.drop_index(
        "attributions_live",
        table_name="attributions",
        postgresql_where=sa.text("attributed_by LIKE '________-____-____-____-____________'"),
    )
    op.drop_table("llm_watermarks")
    op.drop_index("llm_calls_reserved_at", table_name="llm_calls")
    op.drop_index("llm_calls_question", table_name="llm_calls")
    op.drop_table("llm_calls")
    op.drop_index("llm_learning_book", table_name="llm_learning")
    op.drop_table("llm_learning")
