"""Daily sums from before overlaps were added up say the same until they are added up again."""

from datetime import date

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from closeloop import store
from closeloop.store.database import open_engine
from closeloop.store.schema import MIGRATIONS
from tests.store.databases import query, scratch_database, sessions_on


async def downgrade(dsn: str, revision: str) -> None:
    def back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    engine = open_engine(dsn, pool_size=1)
    async with engine.begin() as connection:
        await connection.run_sync(back)
    await engine.dispose()


async def test_sums_are_taken_over_and_every_day_is_due(dsn: str) -> None:
    """Ten outcomes that were worth 2.5; and five of one instant, in a bin whose share was nothing."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await downgrade(scratch, "0027")
        await query(sessions, "INSERT INTO books (book_id) VALUES ('b')")
        for bin_, outcomes, independent in ((6, 10, 2.5), (7, 5, 0.0)):
            await query(
                sessions,
                "INSERT INTO producer_daily_bins (book_id, day, producer_id, asset, horizon, regime, bin, outcomes, "
                "correct, independent, confidence, confidence_squared, confidence_correct, brier_squared, log_score, "
                "log_score_squared) VALUES ('b', CAST('2026-03-02' AS date), 'p', 'A', '1h', '', :bin, :outcomes, 0, "
                ":independent, 0, 0, 0, 0, 0, 0)",
                bin=bin_, outcomes=outcomes, independent=independent,
            )  # fmt: skip
        await query(
            sessions,
            "INSERT INTO producer_performance (book_id, producer_id, asset, horizon, regime, outcomes, correct, "
            "independent, abstentions, sums, as_of, policy_hash) VALUES ('b', 'p', '', '', '', 15, 0, 2, 0, "
            "CAST('[[0,0,0,1],[10,0,2.5,1],[5,0,0,1]]' AS jsonb), now(), 'p'), "
            "('b', 'q', '', '', '', 0, 0, 0, 1, CAST('[]' AS jsonb), now(), 'p')",
        )
        await store.schema.upgrade(scratch)

        rows = await query(sessions, "SELECT overlap FROM producer_daily_bins ORDER BY bin")
        assert [row["overlap"] for row in rows] == [40, 25]
        rows = await query(sessions, "SELECT sums FROM producer_performance ORDER BY producer_id")
        assert [row["sums"] for row in rows] == [[[0, 0, 0, 1], [10, 0, 40, 1], [5, 0, 25, 1]], []]
        [due] = await query(sessions, "SELECT book_id, day FROM performance_due")
        assert tuple(due.values()) == ("b", date(2026, 3, 2))

        await downgrade(scratch, "0027")
        rows = await query(sessions, "SELECT independent FROM producer_daily_bins ORDER BY bin")
        assert [row["independent"] for row in rows] == [pytest.approx(2.5), 1]
