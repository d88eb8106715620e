"""The migrations make what the models say, on a real PostgreSQL, whoever else is migrating."""

import asyncio

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlmodel import SQLModel

from closeloop import store
from closeloop.store.database import open_engine
from closeloop.store.schema import MIGRATIONS, SchemaNewer
from tests.store.databases import query, scratch_database, sessions_on

# Everything that alembic's own comparison leaves out too: collations, partial indexes, identity, foreign keys' actions.
CATALOG = """
    SELECT 'column' AS kind, table_name || '.' || column_name AS name, concat_ws(' ', data_type, udt_name,
           collation_name, is_nullable, column_default, is_identity, identity_generation) AS definition
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION ALL
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
    ORDER BY 1, 2
"""


async def catalog(dsn: str) -> list[tuple[str, str, str]]:
    async with sessions_on(dsn) as sessions:
        rows = await query(sessions, CATALOG.replace("::", "\\:\\:"))
    return [(row["kind"], row["name"], row["definition"]) for row in rows]


async def test_upgrade_from_empty_makes_what_the_models_say(dsn: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, SQLModel.metadata))

    async with scratch_database(dsn, migrated=False) as scratch:
        assert await store.schema.upgrade(scratch) == (None, store.schema.newest())
        engine = open_engine(scratch, pool_size=1)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await engine.dispose()


async def test_upgraded_database_has_the_catalog_that_the_models_create(dsn: str) -> None:
    async with scratch_database(dsn) as upgraded, scratch_database(dsn, migrated=False) as created:
        engine = open_engine(created, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
            await connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text)")
        await engine.dispose()
        found = await catalog(upgraded)
        assert found == await catalog(created)
    assert ("column", "positions.position_id") in {(kind, name) for kind, name, _ in found}


async def test_downgrade_takes_everything_away_and_upgrade_brings_it_back(dsn: str) -> None:
    def downgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        before = await catalog(scratch)
        engine = open_engine(scratch, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(downgrade)
        await engine.dispose()
        assert await catalog(scratch) == []
        functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'\\:\\:regnamespace"
        assert await query(sessions, functions) == []
        assert await store.schema.upgrade(scratch) == (None, store.schema.newest())
        assert await catalog(scratch) == before
        assert len(await query(sessions, functions)) == 2


async def test_upgrading_again_changes_nothing(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        newest = store.schema.newest()
        assert await store.schema.upgrade(scratch) == (newest, newest)
        async with sessions() as session:
            assert await store.schema.revision(session) == newest


async def test_revision_before_the_first_migration_is_none(dsn: str) -> None:
    async with (
        scratch_database(dsn, migrated=False) as scratch,
        sessions_on(scratch) as sessions,
        sessions() as session,
    ):
        assert await store.schema.revision(session) is None


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await query(sessions, "UPDATE alembic_version SET version_num = '9999'")
        before = await catalog(scratch)
        with pytest.raises(SchemaNewer, match=r"revision 9999.*install the newer version"):
            await store.schema.upgrade(scratch)
        assert await catalog(scratch) == before
        assert [row["version_num"] for row in await query(sessions, "SELECT * FROM alembic_version")] == ["9999"]


async def test_upgrades_at_the_same_time_take_turns(dsn: str) -> None:
    async with scratch_database(dsn, migrated=False) as scratch:
        newest = store.schema.newest()
        done = await asyncio.gather(*(store.schema.upgrade(scratch) for _ in range(4)))
        assert sorted(done, key=lambda d: d[0] or "") == [(None, newest), *[(newest, newest)] * 3]
