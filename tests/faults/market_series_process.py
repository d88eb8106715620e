"""Advances the market's series, and kills itself at a boundary, for test_market_series_killed.py.

Boundaries are counted: before each statement and each commit.
"""

import asyncio
import sys
from datetime import datetime

from temporalio.testing import ActivityEnvironment

from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.models.market import Timeframe
from closeloop.models.market_series import AdvanceMarket
from closeloop.store.database import open_engine, sessions_of
from tests.activities.market_minutes import POLICY
from tests.faults.boundaries import Boundaries


async def main(dsn: str, until: str, batch: str, die_at: str) -> None:
    engine = open_engine(dsn)
    boundaries = Boundaries(int(die_at))
    boundaries.watch(engine)
    activities = MarketSeriesActivities(sessions_of(engine), POLICY, int(batch))
    for timeframe in Timeframe:
        more = True
        while more:
            message = AdvanceMarket(timeframe=timeframe, until=datetime.fromisoformat(until))
            more = (await ActivityEnvironment().run(activities.advance_market, message)).more
    print(boundaries.passed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
