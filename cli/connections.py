"""What commands connect to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop.cli.console import settings
from closeloop.store.database import Sessions, open_engine, session_for, sessions_of
from closeloop.workers.addresses import database_url
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal


@asynccontextmanager
async def database() -> AsyncIterator[AsyncSession]:
    """A session on the stack's database."""
    async with session_for(database_url(settings()), through_pooler=settings().database_pooler) as session:
        yield session


@asynccontextmanager
async def database_sessions() -> AsyncIterator[Sessions]:
    """Sessions on the stack's database, one at a time, for what needs several transactions."""
    engine = open_engine(database_url(settings()), pool_size=1, through_pooler=settings().database_pooler)
    try:
        yield sessions_of(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def temporal() -> AsyncIterator[Client]:
    """A client of the stack's Temporal."""
    telemetry = Telemetry(settings())
    try:
        yield await connect_temporal(settings(), telemetry)
    finally:
        telemetry.flush()
