"""The same trade again under another id is found by its result; lessons are mined anew by the rule that it counts once.

Only groups that are mined write lessons: those on record were mined under other rules, so that all are due.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_RESULT = (
    "hash_numeric_extended(size, hash_numeric_extended(realized_pnl, "
    "hash_numeric_extended(EXTRACT(epoch FROM closed_at - opened_at), "
    "hashtextextended(symbol, hashtextextended(direction, 0)))))"
)


def upgrade() -> None:
    op.create_index(
        "positions_same_result",
        "positions",
        ["book_id", sa.text(_RESULT), "entry_price", "exit_price"],
        postgresql_where=sa.text("attributed"),
    )
    op.execute("UPDATE lesson_groups SET policy_hash = ''")


def downgrade() -> None:
    op.drop_index("positions_same_result", table_name="positions")
