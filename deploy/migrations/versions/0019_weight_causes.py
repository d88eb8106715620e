"""A version of weights says why it came into force, a cycle how far the guarded rule is and whether it approves itself.

What is on record says the first in its reason; a proposal that waits is decided as it was proposed.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("weight_versions", sa.Column("cause", sa.Text(), nullable=True))
    op.execute(
        "UPDATE weight_versions SET cause = CASE "
        "WHEN reason LIKE 'degraded in % cycles in a row' AND source = 'preset' THEN 'restored' "
        "WHEN reason LIKE 'reverted by %' THEN 'reverted' "
        "WHEN reason LIKE 'approved by policy: every changed domain is statistically supported%' THEN 'itself' "
        "ELSE 'approved' END"
    )
    op.alter_column("weight_versions", "cause", nullable=False)
    op.add_column("weight_cycles", sa.Column("guard", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column(
        "weight_cycles", sa.Column("approves_itself", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("weight_cycles", "approves_itself")
    op.drop_column("weight_cycles", "guard")
    op.drop_column("weight_versions", "cause")
