"""Old events may leave into archives; whose rows left is on record.

The trigger on events goes on to refuse every change. A transaction that says ``closeloop.archiving`` may delete events
of four types from before the instant that it says, and of none younger than a day.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("archive_id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("horizon", _INSTANT, nullable=False),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("begun_at", _INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("done_at", _INSTANT, nullable=True),
    )
    op.create_index("archives_unfinished", "archives", ["archive_id"], postgresql_where=sa.text("done_at IS NULL"))
    op.create_index("archives_source", "archives", ["source", "archive_id"])
    op.execute(
        """
        CREATE OR REPLACE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            IF TG_OP = 'DELETE' AND coalesce(current_setting('closeloop.archiving', true), '') <> '' THEN
                RETURN NULL;  -- events_leave looks at each row
            END IF;
            RAISE EXCEPTION 'events are append-only: % refused', TG_OP;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION events_leave() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            IF OLD.type IN ('learning.outcome.v1', 'attribution.outcome.v1', 'forecast.v1', 'forecast.outcome.v1')
               AND OLD.ts < least(CAST(current_setting('closeloop.archiving', true) AS timestamptz),
                                  clock_timestamp() - interval '1 day') THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION 'events are append-only: DELETE of % of % refused', OLD.type, OLD.ts;
        END $$
        """
    )
    op.execute("CREATE TRIGGER events_leave BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_leave()")


def downgrade() -> None:
    op.execute("DROP TRIGGER events_leave ON events")
    op.execute("DROP FUNCTION events_leave()")
    op.execute(
        """
        CREATE OR REPLACE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'events are append-only: % refused', TG_OP; END $$
        """
    )
    op.drop_table("archives")
