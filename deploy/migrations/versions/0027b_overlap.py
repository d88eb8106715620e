"""Outcomes count as many as they are worth: what overlaps them is added up instead of shares of an independent one.

Every day is to be added up again. Until then the sums and the reliability diagrams say of each bin what its shares did:
n outcomes worth m have an overlap of n² / m.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027b"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace("independent", by="overlap")


def downgrade() -> None:
    _replace("overlap", by="independent")


def _replace(column: str, by: str) -> None:
    op.add_column("producer_daily_bins", sa.Column(by, sa.Double(), nullable=True))
    op.execute(f"UPDATE producer_daily_bins SET {by} = {_other('outcomes', column)}")  # noqa: S608
    op.alter_column("producer_daily_bins", by, nullable=False)
    op.drop_column("producer_daily_bins", column)
    of_bin = _other("(bin->>0)", "(bin->>2)::float8")
    op.execute(
        f"UPDATE producer_performance p SET sums = (SELECT jsonb_agg(jsonb_set(bin, '{{2}}', to_jsonb({of_bin})) "  # noqa: S608
        "ORDER BY place) FROM jsonb_array_elements(p.sums) WITH ORDINALITY AS b (bin, place)) "
        "WHERE jsonb_array_length(p.sums) > 0"
    )
    op.execute(
        "INSERT INTO performance_due (book_id, day) SELECT DISTINCT book_id, day FROM producer_daily_bins "
        "ON CONFLICT DO NOTHING"
    )


def _other(outcomes: str, measure: str) -> str:
    """What n outcomes are worth from their overlap, or the reverse: n² / measure; one, where the measure is 0."""
    return f"{outcomes}::float8 ^ 2 / CASE WHEN {measure} > 0 THEN {measure} ELSE 1 END"
