"""The schema and its migrations (Alembic, ``deploy/migrations``)."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.store import locks
from closeloop.store.database import open_engine

MIGRATIONS = Path(__file__).resolve().parents[1] / "deploy" / "migrations"


class SchemaNewer(Exception):
    """The database was migrated by a newer closeloop than this one."""


async def upgrade(dsn: str) -> tuple[str | None, str]:
    """Migrate to this code's schema; returns (revision before, revision after). Raises SchemaNewer."""
    engine = open_engine(dsn, pool_size=1)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({locks.SCHEMA})"))
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def revision(session: AsyncSession) -> str | None:
    """The schema's revision; None before the first migration."""
    connection = await session.connection()
    return await connection.run_sync(_current)


def is_known(revision: str) -> bool:
    """Whether this code has the revision's migration; it lacks that of a newer closeloop."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def newest() -> str:
    """The revision that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there is at least one migration"
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    config = _config()
    before = _current(connection)
    if before is not None and not is_known(before):
        raise SchemaNewer(
            f"The database's schema (revision {before}) is newer than this closeloop: install the newer version again."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, newest()
