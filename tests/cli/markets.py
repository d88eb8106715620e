"""A database of a test's own with a market in it, for commands that only read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from closeloop.models.market import Driver, Timeframe
from closeloop.store.database import Sessions
from tests.faults.stack_process import StackProcess
from tests.services.markets import put_state
from tests.store.databases import scratch_database, sessions_on

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
AS_OF = ("--as-of", "2026-05-04T12:00:30Z")


@asynccontextmanager
async def market_of(stack: StackProcess) -> AsyncIterator[tuple[str, Sessions]]:
    """An empty database on the stack's server: its DSN, and sessions on it."""
    async with scratch_database(stack.database_url) as dsn, sessions_on(dsn) as sessions:
        yield dsn, sessions


async def fill(sessions: Sessions) -> None:
    """Of BTC three channels: one that levers use, one that is too old, one that warms up; of ALT one more."""
    await put_state(sessions, Driver.btc, Timeframe.d1, NOON, "S3", flags=["trim_flag"], ox=0.71, edx=0.5)
    await put_state(sessions, Driver.btc, Timeframe.h1, NOON - 3 * Timeframe.h1.step, "S0", prev_state="S2")
    await put_state(sessions, Driver.btc, Timeframe.m1, NOON, None, indicators=[0.0])
    await put_state(sessions, Driver.alt, Timeframe.h1, NOON, "S1", flags=["buy_signal"], ts=0.7)
