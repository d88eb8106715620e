"""What commands connect to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop.cli.console import settings
from closeloop.store.database import session_for
from closeloop.workers.addresses import database_url
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal


@asynccontextmanager
async def database() -> AsyncIterator[AsyncSession]:
    """A session on the stack's database."""
    async with session_for(database_url(settings())) as session:
        yield session


@asynccontextmanager
async def temporal() -> AsyncIterator[Client]:
    """A client of the stack's Temporal."""
    telemetry = Telemetry(settings())
    try:
        yield await connect_temporal(settings(), telemetry)
    finally:
        telemetry.flush()
