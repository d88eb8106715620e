"""weights"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "weight_cycles",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("old", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("new", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("learned", sa.Boolean(), nullable=False),
        sa.Column("performance_n", sa.Integer(), nullable=False),
        sa.Column("performance_pnl", sa.Double(), nullable=True),
        sa.Column("performance_r", sa.Double(), nullable=True),
        sa.Column("streak", sa.Integer(), nullable=False),
        sa.Column(
            "unknown_domains", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("cycle_id"),
    )
    op.create_index("weight_cycles_as_of", "weight_cycles", ["book_id", "as_of"], unique=True)
    op.create_index(
        "weight_cycles_proposed",
        "weight_cycles",
        ["book_id"],
        unique=True,
        postgresql_where=sa.text("state = 'proposed'"),
    )
    op.create_table(
        "weight_versions",
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("overlay", sa.Text(), server_default=sa.text("'due'"), nullable=False),
        sa.Column("overlay_folder", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id"],
            ["books.book_id"],
        ),
        sa.PrimaryKeyConstraint("book_id", "version"),
    )
    op.create_table(
        "learning_weights",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("book_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("old_weight", sa.Double(), nullable=False),
        sa.Column("new_weight", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["book_id", "version"],
            ["weight_versions.book_id", "weight_versions.version"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("learning_weights_version", "learning_weights", ["book_id", "version", "domain"], unique=True)
    op.add_column("books", sa.Column("preset", sa.Text(), nullable=True))
    op.add_column("books", sa.Column("preset_weights", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("books", sa.Column("cadence", sa.Text(), server_default=sa.text("'weekly'"), nullable=False))


def downgrade() -> None:
    op.drop_column("books", "cadence")
    op.drop_column("books", "preset_weights")
    op.drop_column("books", "preset")
    op.drop_index("learning_weights_version", table_name="learning_weights")
    op.drop_table("learning_weights")
    op.drop_table("weight_versions")
    op.drop_index("weight_cycles_proposed", table_name="weight_cycles", postgresql_where=sa.text("state = 'proposed'"))
    op.drop_index("weight_cycles_as_of", table_name="weight_cycles")
    op.drop_table("weight_cycles")
