"""Versions of weights on record before the upgrade say afterwards why they came into force, from their reasons."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from closeloop import store
from closeloop.store.database import open_engine
from closeloop.store.schema import MIGRATIONS
from tests.store.databases import query, scratch_database, sessions_on

REASONS = [
    ("preset", "degraded in 3 cycles in a row", "restored"),
    ("learned", "approved by policy: every changed domain is statistically supported", "itself"),
    ("learned", "approved by ann: degraded in my view", "approved"),
    ("learned", "approved by policy", "approved"),  # a person of that name
    ("preset", "reverted by overlay file deleted: learned_weights.yaml was deleted", "reverted"),
    ("learned", "reverted by bob", "reverted"),
]


async def test_causes_are_read_from_reasons(dsn: str) -> None:
    def back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0018")

    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        engine = open_engine(scratch, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(back)
            await connection.execute(text("INSERT INTO books (book_id) VALUES ('b')"))
            for number, (source, reason, _) in enumerate(REASONS, start=1):
                await connection.execute(
                    text(
                        "INSERT INTO weight_versions (book_id, version, weights, source, since, reason, policy_hash) "
                        "VALUES ('b', :number, '{}', :source, now(), :reason, 'p')"
                    ),
                    {"number": number, "source": source, "reason": reason},
                )
        await engine.dispose()
        await store.schema.upgrade(scratch)
        rows = await query(sessions, "SELECT cause FROM weight_versions ORDER BY version")
        assert [row["cause"] for row in rows] == [cause for _, _, cause in REASONS]
        async with sessions() as session:
            assert await store.weights.a_person_reverted(session, "b")
            assert not await store.weights.a_person_reverted(session, "another")
            assert await store.weights.last_restoration(session, "b") is not None
