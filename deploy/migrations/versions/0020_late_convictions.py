"""A conviction that comes after its close is taken in."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    for table in ("conviction_log", "conviction_scores"):
        # Rows of before count as recorded at the upgrade: the first catch-up after it looks at all of them.
        op.add_column(table, sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=now, nullable=False))
        op.add_column(table, sa.Column("formed_at", sa.DateTime(timezone=True), nullable=True))
        op.create_index(
            f"{table}_recorded",
            table,
            ["recorded_at"],
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        )
    op.add_column("attributions", sa.Column("cycle_id", sa.Text(collation="C"), nullable=True))
    op.add_column("attributions", sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE attributions a SET cycle_id = coalesce(p.conviction ->> 'cycle_id', s.cycle_id) FROM positions p "
        "LEFT JOIN conviction_scores s ON (s.book_id, s.id) = (p.book_id, p.conviction_id) "
        "WHERE (p.book_id, p.position_id) = (a.book_id, a.position_id) AND a.conviction_status = 'unknown'"
    )
    waits = sa.text("conviction_status = 'unknown'")
    op.create_index(
        "attributions_await_conviction", "attributions", ["book_id", "conviction_id"], postgresql_where=waits
    )
    op.create_index(
        "attributions_await_scores", "attributions", ["book_id", "cycle_id", "symbol"], postgresql_where=waits
    )
    op.create_table(
        "conviction_watermark",
        sa.Column("one_row", sa.Boolean(), server_default=sa.text("true"), primary_key=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("one_row", name="conviction_watermark_one_row"),
    )


def downgrade() -> None:
    op.drop_table("conviction_watermark")
    op.drop_index("attributions_await_scores", "attributions")
    op.drop_index("attributions_await_conviction", "attributions")
    op.drop_column("attributions", "completed_at")
    op.drop_column("attributions", "cycle_id")
    for table in ("conviction_scores", "conviction_log"):
        op.drop_column(table, "formed_at")
        op.drop_column(table, "recorded_at")
