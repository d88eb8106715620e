"""What a restore asks of the database, and what it does to it before and after it reads a backup."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from closeloop.store import locks

NOT_EMPTY = "CL001"
"""SQLSTATE with which :func:`replacing` refuses; the message is the table that has rows."""

# Tables whose rows are no history: the schema's revision, what fails at the moment, and which workers run.
_NO_HISTORY = ("alembic_version", "failing_work", "running_workers")


def _tables() -> list[str]:
    return ["alembic_version", *sorted(SQLModel.metadata.tables)]


async def schema_name(session: AsyncSession) -> str:
    """The schema of PostgreSQL that our tables are in."""
    return str((await session.execute(text("SELECT current_schema()"))).scalar_one())


async def server_major(session: AsyncSession) -> int:
    """PostgreSQL's major version, such as 18."""
    return int((await session.execute(text("SHOW server_version_num"))).scalar_one()) // 10000


async def filled(session: AsyncSession) -> str | None:
    """A table of ours that has rows; None if the database holds no history."""
    for table in _tables():
        if table in _NO_HISTORY:
            continue
        there = await session.execute(text("SELECT to_regclass(:table)"), {"table": table})
        if there.scalar_one() is None:
            continue
        if (await session.execute(text(f"SELECT EXISTS (SELECT FROM {table})"))).scalar_one():  # noqa: S608
            return table
    return None


def replacing() -> str:
    """SQL of a transaction that takes away our tables, so that a backup can put its own there.

    It refuses where one of them has rows. The locks come first: what a worker has begun ends before the look, and what
    it begins then waits for the restored tables.
    """
    tables = _tables()
    looks = "\n".join(
        f"IF EXISTS (SELECT FROM {table}) THEN RAISE EXCEPTION '{table}' USING ERRCODE = '{NOT_EMPTY}'; END IF;"
        for table in tables
        if table not in _NO_HISTORY
    )
    return (
        "SET LOCAL lock_timeout = '60s';\n"
        f"SELECT pg_advisory_xact_lock({locks.SCHEMA});\n"
        f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE;\n"
        f"DO $$ BEGIN\n{looks}\nEND $$;\n"
        f"DROP TABLE {', '.join(tables)};\n"
        "DROP FUNCTION events_are_append_only(), events_leave();"
    )


async def restored(session: AsyncSession) -> None:
    """After a restore: overlay files of learned weights are due, since this home may have none; tables are analysed."""
    await session.execute(
        text(
            "UPDATE weight_versions v SET overlay = 'due', overlay_folder = NULL WHERE overlay = 'written' "
            "AND version = (SELECT max(version) FROM weight_versions WHERE book_id = v.book_id)"
        )
    )
    await session.execute(text(f"ANALYZE {', '.join(sorted(SQLModel.metadata.tables))}"))
    await session.commit()
