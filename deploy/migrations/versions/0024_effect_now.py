"""Lessons say how much of their effect is left; one that fades is not acted on until it is mined anew.

What is left of a fading edge is not on record: the next run computes it of every group, as the policy has a new field.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_COLUMNS = ("effect_now", "effect_now_low", "effect_now_high")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("learning_lessons", sa.Column(name, sa.Double(), nullable=True))
    op.execute("UPDATE learning_lessons SET effect_now = effect WHERE half_life_hours IS NULL AND status <> 'shadow'")
    op.execute("UPDATE learning_lessons SET actionable = false WHERE half_life_hours IS NOT NULL AND actionable")


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("learning_lessons", name)
