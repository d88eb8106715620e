"""A database of a test's own with states of the market in it: the market is the same for all books of a database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from closeloop.models.market import Driver, MarketStateRow, Timeframe
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from tests.store.databases import scratch_database, sessions_on


@asynccontextmanager
async def market(dsn: str) -> AsyncIterator[Sessions]:
    """Sessions on an empty database."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield sessions


async def put_state(
    sessions: Sessions, driver: Driver, timeframe: Timeframe, bar_end: datetime, state: str | None, **changes: Any
) -> None:
    """The state of a bar, as if it had been computed the second after the bar ended."""
    row = {
        "driver": driver,
        "timeframe": timeframe,
        "bar_end": bar_end,
        "bar_start": bar_end - timeframe.step,
        "revision": 0,
        "computed_at": bar_end + timedelta(seconds=1),
        "state": state,
        "prev_state": state,
        "published": state is not None,
        "provisional": False,
        "flags": [],
        "indicators": [],
    }
    async with sessions.begin() as session:
        await execute(session, insertion(MarketStateRow, [row | changes]))
