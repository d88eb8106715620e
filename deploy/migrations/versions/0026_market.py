"""The market: bars of its drivers, their states, and where their computation goes on from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)
_NAME = sa.Text(collation="C")
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "regime_price_data_ohlc",
        sa.Column("driver", _NAME, nullable=False),
        sa.Column("book_id", sa.Text(), server_default=sa.text("'onchain_crypto'"), nullable=False),
        sa.Column("timeframe", _NAME, nullable=False),
        sa.Column("timestamp", _INSTANT, nullable=False),
        sa.Column("open_usd", sa.Numeric(), nullable=False),
        sa.Column("high_usd", sa.Numeric(), nullable=False),
        sa.Column("low_usd", sa.Numeric(), nullable=False),
        sa.Column("close_usd", sa.Numeric(), nullable=False),
        sa.Column("volume", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("source", sa.Text(), server_default=sa.text("'binance'"), nullable=False),
        sa.Column("component_count", sa.Integer(), nullable=True),
        sa.Column("n_source", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("written_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("driver", "book_id", "timeframe", "timestamp"),
    )
    op.create_table(
        "market_states",
        sa.Column("driver", _NAME, nullable=False),
        sa.Column("timeframe", _NAME, nullable=False),
        sa.Column("bar_end", _INSTANT, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bar_start", _INSTANT, nullable=False),
        sa.Column("computed_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("prev_state", sa.Text(), nullable=True),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("flags", ARRAY(sa.Text()), nullable=False),
        sa.Column("ts", sa.Double(), nullable=True),
        sa.Column("ox", sa.Double(), nullable=True),
        sa.Column("dx", sa.Double(), nullable=True),
        sa.Column("edx", sa.Double(), nullable=True),
        sa.Column("indicators", ARRAY(sa.Double()), nullable=False),
        sa.PrimaryKeyConstraint("driver", "timeframe", "bar_end", "revision"),
    )
    op.create_table(
        "market_checkpoints",
        sa.Column("driver", _NAME, nullable=False),
        sa.Column("timeframe", _NAME, nullable=False),
        sa.Column("stage", _NAME, nullable=False),
        sa.Column("bar_end", _INSTANT, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("carry", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", _INSTANT, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("driver", "timeframe", "stage", "bar_end"),
    )
    op.create_table(
        "market_changes",
        sa.Column("subject", _NAME, nullable=False),
        sa.Column("from_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "market_bar_counts",
        sa.Column("driver", _NAME, nullable=False),
        sa.Column("asset", _NAME, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("bars", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("driver", "asset", "kind"),
    )
    op.create_table(
        "market_tokens",
        sa.Column("asset", _NAME, nullable=False),
        sa.Column("valid_from", _INSTANT, nullable=False),
        sa.Column("bucket", _NAME, nullable=False),
        sa.Column("valid_to", _INSTANT, nullable=True),
        sa.CheckConstraint("valid_to > valid_from", name="market_tokens_some_time"),
        sa.PrimaryKeyConstraint("asset", "valid_from"),
    )
    op.create_index("market_tokens_bucket", "market_tokens", ["bucket", "asset"])
    op.create_table(
        "market_sources",
        sa.Column("source", _NAME, nullable=False),
        sa.Column("asked_at", _INSTANT, nullable=False),
        sa.Column("answered_at", _INSTANT, nullable=True),
        sa.Column("updated_at", _INSTANT, nullable=True),
        sa.Column("collected_until", _INSTANT, nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", _INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("source"),
    )


def downgrade() -> None:
    for table in (
        "market_sources",
        "market_tokens",
        "market_bar_counts",
        "market_changes",
        "market_checkpoints",
        "market_states",
        "regime_price_data_ohlc",
    ):
        op.drop_table(table)
