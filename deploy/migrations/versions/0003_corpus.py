"""corpus"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "skill_scores",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=True),
        sa.Column("old_score", sa.BigInteger(), nullable=False),
        sa.Column("new_score", sa.BigInteger(), nullable=False),
        sa.Column("old_sha256", sa.Text(), nullable=False),
        sa.Column("new_sha256", sa.Text(), nullable=False),
        sa.Column("matches", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'due'"), nullable=False),
        sa.Column("moved", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "planned_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("plan_id"),
    )
    op.create_index(
        "skill_scores_due", "skill_scores", ["name"], unique=True, postgresql_where=sa.text("state = 'due'")
    )
    op.create_table(
        "pattern_matches",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(collation="C"), nullable=False),
        sa.Column("pattern_key", sa.Text(collation="C"), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("applied", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["book_id", "position_id"],
            ["attributions.book_id", "attributions.position_id"],
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["skill_scores.plan_id"], initially="DEFERRED", deferrable=True),
        sa.PrimaryKeyConstraint("book_id", "position_id", "pattern_key"),
    )
    op.create_index(
        "pattern_matches_unapplied", "pattern_matches", ["pattern_key"], postgresql_where=sa.text("NOT applied")
    )


def downgrade() -> None:
    op.drop_index("pattern_matches_unapplied", table_name="pattern_matches")
    op.drop_table("pattern_matches")
    op.drop_index("skill_scores_due", table_name="skill_scores")
    op.drop_table("skill_scores")
