"""forecasts"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "meta_decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dedupe_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("state", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("forecast_id", sa.Text(collation="C"), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dedupe_key"),
    )
    op.create_index("meta_decisions_book", "meta_decisions", ["book_id", "as_of"], unique=False)
    op.create_table(
        "pair_daily",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("first", sa.Text(collation="C"), nullable=False),
        sa.Column("second", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon_seconds", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("agreed", sa.Integer(), nullable=False),
        sa.Column("agreed_correct_first", sa.Integer(), nullable=False),
        sa.Column("agreed_correct_second", sa.Integer(), nullable=False),
        sa.Column("disagreed_correct_first", sa.Integer(), nullable=False),
        sa.Column("disagreed_correct_second", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pair_daily_day", "pair_daily", ["book_id", "day"], unique=False)
    op.create_table(
        "performance_due",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("book_id", "day"),
    )
    op.create_table(
        "price_coverage",
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("interval_seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("to_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("asset", "interval_seconds", "from_at", "to_at"),
    )
    op.create_table(
        "price_history",
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("interval_seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("open", sa.Numeric(), nullable=False),
        sa.Column("high", sa.Numeric(), nullable=False),
        sa.Column("low", sa.Numeric(), nullable=False),
        sa.Column("close", sa.Numeric(), nullable=False),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint("close > 0 AND close < 'Infinity'", name="price_history_positive"),
        sa.PrimaryKeyConstraint("asset", "interval_seconds", "ends_at"),
    )
    op.create_index(
        "price_history_last",
        "price_history",
        ["asset", sa.literal_column("ends_at DESC"), "interval_seconds"],
        unique=False,
        postgresql_include=["close"],
    )
    op.create_table(
        "producer_correlation",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("first", sa.Text(collation="C"), nullable=False),
        sa.Column("second", sa.Text(collation="C"), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("agreement_low", sa.Double(), nullable=True),
        sa.Column("agreement_high", sa.Double(), nullable=True),
        sa.Column("hit_agreed", sa.Double(), nullable=True),
        sa.Column("hit_agreed_low", sa.Double(), nullable=True),
        sa.Column("hit_agreed_high", sa.Double(), nullable=True),
        sa.Column("hit_first_disagreed", sa.Double(), nullable=True),
        sa.Column("hit_first_disagreed_low", sa.Double(), nullable=True),
        sa.Column("hit_first_disagreed_high", sa.Double(), nullable=True),
        sa.Column("hit_second_disagreed", sa.Double(), nullable=True),
        sa.Column("hit_second_disagreed_low", sa.Double(), nullable=True),
        sa.Column("hit_second_disagreed_high", sa.Double(), nullable=True),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("book_id", "asset", "horizon", "first", "second"),
    )
    op.create_table(
        "producer_daily_bins",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("regime", sa.Text(collation="C"), nullable=False),
        sa.Column("bin", sa.SmallInteger(), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("correct", sa.Integer(), nullable=False),
        sa.Column("independent", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("confidence_squared", sa.Double(), nullable=False),
        sa.Column("confidence_correct", sa.Double(), nullable=False),
        sa.Column("brier_squared", sa.Double(), nullable=False),
        sa.Column("log_score", sa.Double(), nullable=False),
        sa.Column("log_score_squared", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("producer_daily_bins_day", "producer_daily_bins", ["book_id", "day"], unique=False)
    op.create_table(
        "producer_heartbeats",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("heartbeat_id", sa.Text(collation="C"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("book_id", "producer_id", "heartbeat_id"),
    )
    op.create_table(
        "producer_performance",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("regime", sa.Text(collation="C"), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("correct", sa.Integer(), nullable=False),
        sa.Column("independent", sa.Integer(), nullable=False),
        sa.Column("abstentions", sa.Integer(), nullable=False),
        sa.Column("hit_rate", sa.Double(), nullable=True),
        sa.Column("hit_low", sa.Double(), nullable=True),
        sa.Column("hit_high", sa.Double(), nullable=True),
        sa.Column("mean_confidence", sa.Double(), nullable=True),
        sa.Column("mean_confidence_se", sa.Double(), nullable=True),
        sa.Column("brier", sa.Double(), nullable=True),
        sa.Column("brier_se", sa.Double(), nullable=True),
        sa.Column("reliability", sa.Double(), nullable=True),
        sa.Column("resolution", sa.Double(), nullable=True),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("within_bin_variance", sa.Double(), nullable=True),
        sa.Column("within_bin_covariance", sa.Double(), nullable=True),
        sa.Column("log_score", sa.Double(), nullable=True),
        sa.Column("log_score_se", sa.Double(), nullable=True),
        sa.Column("calibration_error", sa.Double(), nullable=True),
        sa.Column("calibration_error_if_perfect", sa.Double(), nullable=True),
        sa.Column("correlation", sa.Double(), nullable=True),
        sa.Column("sums", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("book_id", "producer_id", "asset", "horizon", "regime"),
    )
    op.create_table(
        "recalibration_maps",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("adopted", sa.Boolean(), nullable=False),
        sa.Column("stated", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.Column("recalibrated", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("book_id", "producer_id", "version"),
    )
    op.create_table(
        "resolutions",
        sa.Column("resolution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved", sa.BigInteger(), nullable=False),
        sa.Column("abstained", sa.BigInteger(), nullable=False),
        sa.Column("given_up", sa.BigInteger(), nullable=False),
        sa.Column("candles", sa.BigInteger(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("resolution_id"),
    )
    op.create_table(
        "forecasts",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("forecast_id", sa.Text(collation="C"), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("target_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("regime", sa.Text(collation="C"), nullable=True),
        sa.Column("abstention_reason", sa.Text(), nullable=True),
        sa.Column("shadow", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "forecast_id"),
    )
    op.create_index(
        "forecasts_abstentions",
        "forecasts",
        ["book_id", "target_at"],
        unique=False,
        postgresql_where=sa.text("action = 'no_forecast'"),
    )
    op.create_index("forecasts_ensemble", "forecasts", ["book_id", "asset", "horizon", "issued_at"], unique=False)
    op.create_index("forecasts_issued", "forecasts", ["book_id", "issued_at"], unique=False)
    op.create_table(
        "meta_modes",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id"),
    )
    op.create_table(
        "meta_proposals",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("proposed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("operator", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "number"),
    )
    op.create_index(
        "meta_proposals_pending",
        "meta_proposals",
        ["book_id"],
        unique=True,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "producer_health",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("successes", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "producer_id"),
    )
    op.create_table(
        "forecast_outcomes",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("forecast_id", sa.Text(collation="C"), nullable=False),
        sa.Column("producer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("horizon", sa.Text(collation="C"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("target_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("price_at_issue", sa.Numeric(), nullable=False),
        sa.Column("price_at_target", sa.Numeric(), nullable=False),
        sa.Column("return_pct", sa.Double(), nullable=False),
        sa.Column("direction_correct", sa.Boolean(), nullable=False),
        sa.Column("brier_score", sa.Double(), nullable=False),
        sa.Column("log_score", sa.Double(), nullable=False),
        sa.Column("regime", sa.Text(collation="C"), nullable=True),
        sa.Column("shadow", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_by", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "forecast_id"],
            ["forecasts.book_id", "forecasts.forecast_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "forecast_id"),
    )
    op.create_index(
        "forecast_outcomes_stream",
        "forecast_outcomes",
        ["book_id", "producer_id", "asset", "horizon", "target_at"],
        unique=False,
    )
    op.create_index("forecast_outcomes_target", "forecast_outcomes", ["book_id", "target_at"], unique=False)
    op.create_table(
        "forecast_resolution_state",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("forecast_id", sa.Text(collation="C"), nullable=False),
        sa.Column("asset", sa.Text(collation="C"), nullable=False),
        sa.Column("target_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("first_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["book_id", "forecast_id"],
            ["forecasts.book_id", "forecasts.forecast_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "forecast_id"),
    )
    op.create_index("forecast_resolution_state_asset", "forecast_resolution_state", ["asset", "state"], unique=False)
    op.create_index(
        "forecast_resolution_state_due",
        "forecast_resolution_state",
        ["target_at", "book_id", "forecast_id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.drop_index(
        "forecast_resolution_state_due",
        table_name="forecast_resolution_state",
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_index("forecast_resolution_state_asset", table_name="forecast_resolution_state")
    op.drop_table("forecast_resolution_state")
    op.drop_index("forecast_outcomes_target", table_name="forecast_outcomes")
    op.drop_index("forecast_outcomes_stream", table_name="forecast_outcomes")
    op.drop_table("forecast_outcomes")
    op.drop_table("producer_health")
    op.drop_index("meta_proposals_pending", table_name="meta_proposals", postgresql_where=sa.text("state = 'pending'"))
    op.drop_table("meta_proposals")
    op.drop_table("meta_modes")
    op.drop_index("forecasts_issued", table_name="forecasts")
    op.drop_index("forecasts_ensemble", table_name="forecasts")
    op.drop_index("forecasts_abstentions", table_name="forecasts", postgresql_where=sa.text("action = 'no_forecast'"))
    op.drop_table("forecasts")
    op.drop_table("resolutions")
    op.drop_table("recalibration_maps")
    op.drop_table("producer_performance")
    op.drop_table("producer_heartbeats")
    op.drop_index("producer_daily_bins_day", table_name="producer_daily_bins")
    op.drop_table("producer_daily_bins")
    op.drop_table("producer_correlation")
    op.drop_index("price_history_last", table_name="price_history", postgresql_include=["close"])
    op.drop_table("price_history")
    op.drop_table("price_coverage")
    op.drop_table("performance_due")
    op.drop_index("pair_daily_day", table_name="pair_daily")
    op.drop_table("pair_daily")
    op.drop_index("meta_decisions_book", table_name="meta_decisions")
    op.drop_table("meta_decisions")
