"""Decisions of engines, discoveries, changes of positions, and what became of the market after each decision."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(collation="C"), primary_key=True)


def upgrade() -> None:
    op.create_table(
        "learning_decisions",
        sa.Column("book_id", sa.Text(), primary_key=True),
        _key("decision_id"),
        sa.Column("symbol", sa.Text(collation="C"), nullable=False),
        _time("decided_at"),
        sa.Column("timestamp_stated", sa.Boolean(), nullable=False),
        _time("received_at"),
        sa.Column("decision_type", sa.Text(), nullable=False),
        sa.Column("decision_source", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("confidence_used", sa.Double(), nullable=True),
        sa.Column("arm", sa.Text(), nullable=True),
        sa.Column("params_version", sa.Integer(), nullable=True),
        sa.Column("market_regime", sa.Text(collation="C"), nullable=True),
        sa.Column("ai_generated", sa.Boolean(), nullable=True),
        sa.Column("position_id", sa.Text(collation="C"), nullable=True),
        sa.Column("thesis_data", JSONB(), nullable=True),
        sa.Column("discovery_id", sa.Text(collation="C"), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("action_tag", sa.Text(collation="C"), nullable=True),
        sa.Column("discovery_features", JSONB(), nullable=True),
        sa.Column("market_conditions", JSONB(), nullable=True),
        sa.Column("position_size_pct", sa.Double(), nullable=True),
        sa.Column("entry_price", sa.Numeric(), nullable=True),
        sa.Column("expected_volume_ratio", sa.Double(), nullable=True),
        sa.Column("catalyst_materialized", sa.Boolean(), nullable=True),
        _time("next_due_at", nullable=True),
        sa.Column("awaits_close", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["book_id"], ["books.book_id"]),
    )
    op.create_index(
        "learning_decisions_due",
        "learning_decisions",
        ["symbol", "decided_at"],
        postgresql_where=sa.text("next_due_at IS NOT NULL"),
    )
    op.create_index("learning_decisions_order", "learning_decisions", ["book_id", "decided_at", "decision_id"])
    op.create_index(
        "learning_decisions_await",
        "learning_decisions",
        ["book_id", "position_id"],
        postgresql_where=sa.text("awaits_close"),
    )
    op.create_table(
        "learning_outcomes",
        sa.Column("book_id", sa.Text(), primary_key=True),
        _key("decision_id"),
        *(sa.Column(f"return_{days}d", sa.Double(), nullable=True) for days in (1, 7, 30)),
        sa.Column("max_favorable_excursion", sa.Double(), nullable=True),
        sa.Column("max_adverse_excursion", sa.Double(), nullable=True),
        sa.Column("volatility_realized", sa.Double(), nullable=True),
        sa.Column("coverage", sa.Double(), nullable=True),
        sa.Column("price_at_decision", sa.Numeric(), nullable=True),
        sa.Column("price_at_evaluation", sa.Numeric(), nullable=True),
        _time("evaluation_date", nullable=True),
        sa.Column("thesis_accuracy_score", sa.Double(), nullable=True),
        sa.Column("volume_pattern_accuracy", sa.Double(), nullable=True),
        sa.Column("catalyst_materialized", sa.Boolean(), nullable=True),
        sa.Column("position_closed", sa.Boolean(), nullable=False),
        sa.Column("exit_price", sa.Numeric(), nullable=True),
        sa.Column("exit_reason", sa.Text(), nullable=True),
        sa.Column("unresolvable", ARRAY(sa.Text()), nullable=False),
        _time("filled_at"),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id", "decision_id"], ["learning_decisions.book_id", "learning_decisions.decision_id"]
        ),
    )
    op.create_table(
        "learning_discoveries",
        sa.Column("book_id", sa.Text(), primary_key=True),
        _key("discovery_id"),
        _time("discovered_at"),
        sa.Column("timestamp_stated", sa.Boolean(), nullable=False),
        sa.Column("universe_size", sa.Integer(), nullable=True),
        sa.Column("candidates", sa.Integer(), nullable=False),
        sa.Column("pipeline_stats", JSONB(), nullable=True),
        sa.Column("market_conditions", JSONB(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["book_id"], ["books.book_id"]),
    )
    op.create_index("learning_discoveries_order", "learning_discoveries", ["book_id", "discovered_at"])
    op.create_table(
        "learning_trade_changes",
        sa.Column("book_id", sa.Text(), primary_key=True),
        _key("change_id"),
        sa.Column("symbol", sa.Text(collation="C"), nullable=False),
        sa.Column("change_type", sa.Text(), nullable=False),
        _time("changed_at"),
        sa.Column("timestamp_stated", sa.Boolean(), nullable=False),
        sa.Column("change_data", JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["book_id"], ["books.book_id"]),
    )
    op.create_index("learning_trade_changes_order", "learning_trade_changes", ["book_id", "changed_at"])


def downgrade() -> None:
    for table in ("learning_trade_changes", "learning_discoveries", "learning_outcomes", "learning_decisions"):
        op.drop_table(table)
