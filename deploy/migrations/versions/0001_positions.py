"""positions"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("book_id"),
    )
    op.create_table(
        "conviction_log",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("cycle_id", sa.Text(collation="C"), nullable=False),
        sa.Column("symbol", sa.Text(collation="C"), nullable=False),
        sa.Column("domain_scores", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("book_id", "cycle_id", "symbol"),
    )
    op.create_table(
        "conviction_scores",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=True),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("magnitude", sa.Double(), nullable=True),
        sa.Column("outcome", sa.SmallInteger(), nullable=True),
        sa.Column("outcome_ts", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("book_id", "id"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("ts", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dedupe_key"),
    )
    op.execute(
        """
        CREATE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'events are append-only: % refused', TG_OP; END $$
        """
    )
    op.execute(
        "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()"
    )
    op.create_index("events_book_id", "events", [sa.literal_column("(payload ->> 'book')"), "id"], unique=False)
    op.create_index("events_type_id", "events", ["type", "id"], unique=False)
    op.create_table(
        "imports",
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("counts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("import_id"),
    )
    op.create_table(
        "positions",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("entry_price", sa.Numeric(), nullable=True),
        sa.Column("exit_price", sa.Numeric(), nullable=True),
        sa.Column("size", sa.Numeric(), nullable=True),
        sa.Column("realized_pnl", sa.Numeric(), nullable=True),
        sa.Column("risk", sa.Numeric(), nullable=True),
        sa.Column("max_drawdown_pct", sa.Double(), nullable=True),
        sa.Column("max_favorable_pct", sa.Double(), nullable=True),
        sa.Column("regime_at_entry", sa.Text(), nullable=True),
        sa.Column("exit_reason", sa.Text(), nullable=True),
        sa.Column("conviction_id", sa.Text(), nullable=True),
        sa.Column("conviction", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("signals", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("entry_context", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("attributed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("book_id", "position_id"),
    )
    op.create_index(
        "positions_unattributed",
        "positions",
        ["closed_at", "book_id", "position_id"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NOT NULL AND NOT attributed"),
    )
    op.create_table(
        "attributions",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("realized_pnl", sa.Numeric(), nullable=False),
        sa.Column("rr", sa.Double(), nullable=True),
        sa.Column("time_held_hours", sa.Double(), nullable=False),
        sa.Column("max_drawdown_pct", sa.Double(), nullable=True),
        sa.Column("max_favorable_pct", sa.Double(), nullable=True),
        sa.Column("direction_correct", sa.Boolean(), nullable=False),
        sa.Column("regime_at_entry", sa.Text(), nullable=True),
        sa.Column("conviction_id", sa.Text(), nullable=True),
        sa.Column("conviction_status", sa.Text(), nullable=False),
        sa.Column("domain_scores_at_entry", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("producers", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("attributed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attributed_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "position_id"],
            ["positions.book_id", "positions.position_id"],
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "position_id"),
    )
    op.create_index("attributions_order", "attributions", ["book_id", "closed_at", "position_id"], unique=False)
    op.create_table(
        "import_rejections",
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("row_index", sa.Integer(), nullable=False),
        sa.Column("book", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["import_id"], ["imports.import_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("import_id", "seq"),
    )
    op.create_table(
        "import_rows",
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("row_index", sa.Integer(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["import_id"], ["imports.import_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("import_id", "seq"),
    )
    op.create_table(
        "producer_karma",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("karma", sa.Double(), nullable=False),
        sa.Column("wins", sa.BigInteger(), nullable=False),
        sa.Column("losses", sa.BigInteger(), nullable=False),
        sa.Column("trades", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "producer_id"),
    )


def downgrade() -> None:
    op.drop_table("producer_karma")
    op.drop_table("import_rows")
    op.drop_table("import_rejections")
    op.drop_index("attributions_order", table_name="attributions")
    op.drop_table("attributions")
    op.drop_index(
        "positions_unattributed",
        table_name="positions",
        postgresql_where=sa.text("closed_at IS NOT NULL AND NOT attributed"),
    )
    op.drop_table("positions")
    op.drop_table("imports")
    op.drop_index("events_type_id", table_name="events")
    op.drop_index("events_book_id", table_name="events")
    op.drop_table("events")
    op.execute("DROP FUNCTION events_are_append_only()")
    op.drop_table("conviction_scores")
    op.drop_table("conviction_log")
    op.drop_table("books")
