"""Advances the market's series, and kills itself at a boundary, for test_market_series_killed.py.

Boundaries are counted: before each statement and each commit.
"""

import asyncio
import os
import signal
import sys
from datetime import datetime
from typing import Any

from sqlalchemy import event
from temporalio.testing import ActivityEnvironment

from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.models.market import Timeframe
from closeloop.models.market_series import AdvanceMarket
from closeloop.store.database import open_engine, sessions_of
from tests.activities.market_minutes import POLICY


async def main(dsn: str, until: str, batch: str, die_at: str) -> None:
    engine = open_engine(dsn)
    passed = 0

    def boundary(*_: Any, **__: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine.sync_engine, "before_cursor_execute", boundary)
    event.listen(engine.sync_engine, "commit", boundary)
    activities = MarketSeriesActivities(sessions_of(engine), POLICY, int(batch))
    for timeframe in Timeframe:
        more = True
        while more:
            message = AdvanceMarket(timeframe=timeframe, until=datetime.fromisoformat(until))
            more = (await ActivityEnvironment().run(activities.advance_market, message)).more
    print(passed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
