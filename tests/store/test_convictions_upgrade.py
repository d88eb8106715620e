"""Closes on record before the upgrade that wait for a conviction are completed by the first catch-up after it."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from closeloop import store
from closeloop.store.database import open_engine
from closeloop.store.schema import MIGRATIONS
from tests.activities.attributing import attributed
from tests.activities.test_late_convictions import BY_ID, INLINE, SCORES, believed, catch_up
from tests.closes import closed
from tests.store.databases import scratch_database, sessions_on


async def test_the_first_catch_up_looks_at_what_was_there(dsn: str) -> None:
    def back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0019")

    other_symbol = INLINE | {"conviction_id": "c-2", "cycle_id": "cycle-2"}
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await attributed(sessions, closed("b", "named", conviction=BY_ID))
        await attributed(sessions, closed("b", "cycle", conviction={"conviction_id": "c-9", "cycle_id": "cycle-1"}))
        await attributed(sessions, closed("b", "other", conviction={"conviction_id": "c-2"}, symbol="ETH/USDT"))
        await attributed(sessions, closed("b", "brings", conviction=INLINE))
        await attributed(sessions, closed("b", "brings another", conviction=other_symbol))
        engine = open_engine(scratch, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(back)
        await engine.dispose()
        await store.schema.upgrade(scratch)
        assert await catch_up(sessions) == 2
        found = await believed(sessions, "b")
        assert found["named"] == found["cycle"] == ("recorded", SCORES, "cycle-1")
        assert found["other"] == ("unknown", None, "cycle-2"), "its cycle is known; scores of its symbol are not"
