"""Prices know their import, whether they may still change, and which gaps are real; outcomes know their candles.

Candles that were imported before prove no gap: importing their file again does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "price_imports",
        sa.Column("import_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("interval_seconds", sa.Integer(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("written_at", _INSTANT, nullable=True),
        sa.Column("imported_at", _INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("imported", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("already_recorded", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("replaced", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("first_end", _INSTANT, nullable=True),
        sa.Column("last_end", _INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("import_id"),
    )
    op.create_table(
        "price_gaps",
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("interval_seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_at", _INSTANT, nullable=False),
        sa.Column("to_at", _INSTANT, nullable=False),
        sa.Column("import_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "interval_seconds", "from_at"),
    )
    op.create_table(
        "price_refusals",
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("interval_seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_at", _INSTANT, nullable=False),
        sa.Column("to_at", _INSTANT, nullable=False),
        sa.Column("import_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "interval_seconds", "from_at", "to_at"),
    )
    op.create_table(
        "price_source_assets",
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("asked_at", _INSTANT, nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", _INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("asset"),
    )
    op.create_table(
        "outcomes_to_recompute",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("forecast_id", sa.Text(collation="C"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("marked_at", _INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["book_id", "forecast_id"], ["forecasts.book_id", "forecasts.forecast_id"]),
        sa.PrimaryKeyConstraint("book_id", "forecast_id"),
    )
    op.add_column("price_history", sa.Column("import_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "price_history", sa.Column("provisional", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(
        "price_history_provisional",
        "price_history",
        ["asset", "interval_seconds"],
        postgresql_where=sa.text("provisional"),
    )
    for end in ("issue", "target"):
        op.add_column("forecast_outcomes", sa.Column(f"{end}_candle_ends_at", _INSTANT, nullable=True))
        op.add_column("forecast_outcomes", sa.Column(f"{end}_candle_seconds", sa.Integer(), nullable=True))
        op.add_column("forecast_outcomes", sa.Column(f"{end}_price_source", sa.Text(), nullable=True))
    for table in ("forecast_outcomes", "forecast_resolution_state"):
        op.add_column(table, sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "recalibration_maps", sa.Column("outdated", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("recalibration_maps", "outdated")
    for table in ("forecast_resolution_state", "forecast_outcomes"):
        op.drop_column(table, "revision")
    for end in ("target", "issue"):
        op.drop_column("forecast_outcomes", f"{end}_price_source")
        op.drop_column("forecast_outcomes", f"{end}_candle_seconds")
        op.drop_column("forecast_outcomes", f"{end}_candle_ends_at")
    op.drop_index("price_history_provisional", table_name="price_history")
    op.drop_column("price_history", "provisional")
    op.drop_column("price_history", "import_id")
    for table in ("outcomes_to_recompute", "price_source_assets", "price_refusals", "price_gaps", "price_imports"):
        op.drop_table(table)
