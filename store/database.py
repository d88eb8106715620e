"""Connecting to PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

# A worker whose host disappears in the middle of a transaction holds its locks until the server ends the transaction:
# after two minutes without a statement (ms), or when keepalives (s) find the connection dead.
_SERVER_SETTINGS = {
    "application_name": "closeloop",
    "timezone": "UTC",  # a day is a day of UTC, in the database too
    "idle_in_transaction_session_timeout": "120000",
    "tcp_keepalives_idle": "30",
}
Sessions = async_sessionmaker[AsyncSession]


# A pooler in transaction mode hands a connection on after each transaction, with what was set or prepared on it.
_POOLED_SETTINGS = {name: _SERVER_SETTINGS[name] for name in ("application_name", "timezone")}


def open_engine(
    dsn: str,
    pool_size: int = 5,
    *,
    ask_first: bool = False,
    through_pooler: bool = False,
    statement_seconds: int = 300,
    pool_seconds: int = 30,
) -> AsyncEngine:
    """An engine over asyncpg for a libpq-style DSN (``postgresql://...``; ``sslmode`` and the like are understood).

    ``ask_first``: before a transaction, whether its connection is still there; one that is not is replaced.
    ``through_pooler``: the DSN is that of a pooler in transaction mode. ``statement_seconds``: after which a statement
    fails; ``pool_seconds``: for how long a connection of the pool is waited for.
    """

    async def connect(*_: object, **__: object) -> asyncpg.Connection:
        return await asyncpg.connect(
            dsn,
            timeout=10,
            command_timeout=statement_seconds,
            server_settings=_POOLED_SETTINGS if through_pooler else _SERVER_SETTINGS,
            statement_cache_size=0 if through_pooler else 100,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            "async_creator_fn": connect,
            "prepared_statement_cache_size": 0 if through_pooler else 100,
        },
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_seconds,
        pool_pre_ping=ask_first,
    )


def sessions_of(engine: AsyncEngine) -> Sessions:
    """Sessions whose objects stay readable after the commit."""
    return async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


@asynccontextmanager
async def session_for(dsn: str, *, through_pooler: bool = False) -> AsyncIterator[AsyncSession]:
    """One session on an engine of its own, for a command: between its transactions it may wait long for its input."""
    engine = open_engine(dsn, pool_size=1, ask_first=True, through_pooler=through_pooler)
    try:
        async with sessions_of(engine)() as session:
            yield session
    finally:
        await engine.dispose()


async def server_version(session: AsyncSession) -> str:
    """PostgreSQL's version, such as 18.1."""
    return str((await session.execute(text("SHOW server_version"))).scalar_one())
