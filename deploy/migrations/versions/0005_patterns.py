"""patterns"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unlearned",
        sa.Column("learner", sa.Text(collation="C"), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.PrimaryKeyConstraint("learner", "book_id", "position_id"),
    )
    op.create_table(
        "learning_configs",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("module_id", sa.Text(), nullable=False),
        sa.Column("config_data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sums", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "module_id"),
    )
    op.create_table(
        "lesson_runs",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow_run", sa.Text(), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "version"),
    )
    op.create_index("lesson_runs_workflow", "lesson_runs", ["book_id", "workflow_run"], unique=True)
    op.create_table(
        "learning_lessons",
        sa.Column("lesson_id", sa.Text(collation="C"), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action_category", sa.Text(collation="C"), nullable=False),
        sa.Column("scope", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("avg_rr", sa.Double(), nullable=False),
        sa.Column("variance", sa.Double(), nullable=True),
        sa.Column("win_rate", sa.Double(), nullable=False),
        sa.Column("edge_raw", sa.Double(), nullable=False),
        sa.Column("effect", sa.Double(), nullable=True),
        sa.Column("effect_low", sa.Double(), nullable=True),
        sa.Column("effect_high", sa.Double(), nullable=True),
        sa.Column("half_life_hours", sa.Double(), nullable=True),
        sa.Column("p", sa.Double(), nullable=True),
        sa.Column("q", sa.Double(), nullable=True),
        sa.Column("actionable", sa.Boolean(), nullable=False),
        sa.Column("explained_by", sa.Text(collation="C"), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("edge_score", sa.Double(), nullable=True),
        sa.Column("factors", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("newest_trade_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "version"],
            ["lesson_runs.book_id", "lesson_runs.version"],
        ),
        sa.PrimaryKeyConstraint("lesson_id"),
    )
    op.create_index(
        "learning_lessons_group", "learning_lessons", ["book_id", "pattern_key", "action_category"], unique=False
    )
    op.create_table(
        "learning_regime_weights",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action_category", sa.Text(collation="C"), nullable=False),
        sa.Column("regime_signature", sa.Text(collation="C"), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "version"],
            ["lesson_runs.book_id", "lesson_runs.version"],
        ),
        sa.PrimaryKeyConstraint("book_id", "pattern_key", "action_category", "regime_signature"),
    )
    op.create_table(
        "lesson_groups",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action_category", sa.Text(collation="C"), nullable=False),
        sa.Column("trades", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "version"],
            ["lesson_runs.book_id", "lesson_runs.version"],
        ),
        sa.PrimaryKeyConstraint("book_id", "pattern_key", "action_category"),
    )
    op.create_table(
        "pattern_trade_events",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.Column("action_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action_category", sa.Text(collation="C"), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("scope", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("rr", sa.Double(), nullable=True),
        sa.Column("pnl", sa.Numeric(), nullable=False),
        sa.Column("acted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id", "position_id"],
            ["attributions.book_id", "attributions.position_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "position_id", "action_index"),
    )
    op.create_index(
        "pattern_trade_events_group",
        "pattern_trade_events",
        ["book_id", "pattern_key", "action_category", "closed_at"],
        unique=False,
    )
    op.create_table(
        "lesson_history",
        sa.Column("lesson_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("avg_rr", sa.Double(), nullable=False),
        sa.Column("edge_raw", sa.Double(), nullable=False),
        sa.Column("effect", sa.Double(), nullable=True),
        sa.Column("half_life_hours", sa.Double(), nullable=True),
        sa.Column("p", sa.Double(), nullable=True),
        sa.Column("q", sa.Double(), nullable=True),
        sa.Column("actionable", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("edge_score", sa.Double(), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["lesson_id"],
            ["learning_lessons.lesson_id"],
        ),
        sa.PrimaryKeyConstraint("lesson_id", "version"),
    )
    op.create_table(
        "pm_overrides",
        sa.Column("override_id", sa.Text(collation="C"), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("action_category", sa.Text(collation="C"), nullable=False),
        sa.Column("scope", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("anchor", sa.Text(collation="C"), nullable=False),
        sa.Column("size_multiplier", sa.Double(), nullable=False),
        sa.Column("threshold_adjustments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lesson_id", sa.Text(collation="C"), nullable=False),
        sa.Column("lesson_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["lesson_id"],
            ["learning_lessons.lesson_id"],
        ),
        sa.PrimaryKeyConstraint("override_id"),
    )
    op.create_index(
        "pm_overrides_active", "pm_overrides", ["lesson_id"], unique=True, postgresql_where=sa.text("status = 'active'")
    )
    op.create_index(
        "pm_overrides_match",
        "pm_overrides",
        ["book_id", "pattern_key", "action_category", "anchor"],
        unique=False,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "pm_overrides_pending",
        "pm_overrides",
        ["lesson_id"],
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    )
    # What was attributed before there were learners: the catch-up lets them take it in.
    op.execute(
        "INSERT INTO unlearned SELECT learner, book_id, position_id FROM attributions "
        "CROSS JOIN (VALUES ('pattern-events'), ('timeframe-coefficients')) AS l (learner)"
    )


def downgrade() -> None:
    op.drop_index("pm_overrides_pending", table_name="pm_overrides", postgresql_where=sa.text("status = 'pending'"))
    op.drop_index("pm_overrides_match", table_name="pm_overrides", postgresql_where=sa.text("status = 'active'"))
    op.drop_index("pm_overrides_active", table_name="pm_overrides", postgresql_where=sa.text("status = 'active'"))
    op.drop_table("pm_overrides")
    op.drop_table("lesson_history")
    op.drop_index("pattern_trade_events_group", table_name="pattern_trade_events")
    op.drop_table("pattern_trade_events")
    op.drop_table("lesson_groups")
    op.drop_table("learning_regime_weights")
    op.drop_index("learning_lessons_group", table_name="learning_lessons")
    op.drop_table("learning_lessons")
    op.drop_index("lesson_runs_workflow", table_name="lesson_runs")
    op.drop_table("lesson_runs")
    op.drop_table("learning_configs")
    op.drop_table("unlearned")
