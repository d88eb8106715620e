"""Databases of a test's own, and a look at who waits for whom."""

import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import CursorResult, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.store.database import Sessions, open_engine, sessions_of
from tests.waiting import until


@asynccontextmanager
async def scratch_database(dsn: str, *, migrated: bool = True) -> AsyncIterator[str]:
    """An empty database on the session's server; yields its DSN and drops it afterwards."""
    name = f"scratch_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        scratch = f"{dsn.rsplit('/', 1)[0]}/{name}"
        try:
            if migrated:
                await store.schema.upgrade(scratch)
            yield scratch
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@asynccontextmanager
async def sessions_on(dsn: str, pool_size: int = 5) -> AsyncIterator[Sessions]:
    """Sessions on an engine of their own."""
    engine = open_engine(dsn, pool_size=pool_size)
    try:
        yield sessions_of(engine)
    finally:
        await engine.dispose()


async def query(sessions: Sessions, sql: str, **values: Any) -> list[RowMapping]:
    """Rows of one statement, in a transaction of its own."""
    async with sessions.begin() as session:
        result = await session.execute(text(sql), values)
        return list(result.mappings()) if isinstance(result, CursorResult) and result.returns_rows else []


async def backend(session: AsyncSession) -> int:
    """The process id of the session's connection, as PostgreSQL lists it."""
    return int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def wait_until_blocked(sessions: Sessions, backends: Collection[int]) -> None:
    """Return once each of these connections waits for a lock that another one holds."""
    sql = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(:pids) AND wait_event_type = 'Lock'"
    await _wait_for(len(backends), sessions, sql, pids=list(backends))


async def wait_until_it_runs(sessions: Sessions, running: int, statement: str) -> None:
    """Return once this connection is in the middle of a statement that begins so."""
    sql = "SELECT pid FROM pg_stat_activity WHERE pid = :pid AND state = 'active' AND starts_with(query, :statement)"
    await _wait_for(1, sessions, sql, pid=running, statement=statement)


async def wait_until_it_blocks(sessions: Sessions, blocking: int) -> None:
    """Return once some connection waits for a lock that this one holds."""
    sql = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND :pid = ANY(pg_blocking_pids(pid))"
    await _wait_for(1, sessions, sql, pid=blocking)


async def _wait_for(count: int, sessions: Sessions, sql: str, **values: Any) -> None:
    async def enough() -> bool:
        return len(await query(sessions, sql, **values)) == count

    await until("what others do in the database", enough)
