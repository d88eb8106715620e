"""How the market's sources and series do, for status."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.market import Driver
from closeloop.models.market_policy import LeversPolicy
from closeloop.models.market_sources import MarketMode, MarketStatus, StillSeries
from closeloop.services.market_levers import ages

LOOKED_BACK = timedelta(days=7)
# By the defaults, not by a policy file: status has to be had also where that is broken.
AGES = ages(LeversPolicy())
LONGEST_WITHOUT_DOMINANCE = timedelta(minutes=LeversPolicy().max_age_dominance_minutes)


async def standing(session: AsyncSession, mode: MarketMode, now: datetime) -> MarketStatus | None:
    """How they do; None where the market is off and nothing of it is on record.

    A series that ended is told of only where the market is on: where it is off, all stand still.
    """
    sources = await store.market.sources.listing(session)
    ends = await store.market.looks.newest_ends(session)
    if mode == "off" and not sources and not ends:
        return None
    drivers = list(Driver)
    still = [
        StillSeries(driver=driver, timeframe=timeframe, bar_end=end)
        for (driver, timeframe), end in sorted(ends.items(), key=lambda one: drivers.index(one[0][0]))
        if mode != "off" and end < now - AGES[driver, timeframe]
    ]
    gaps = await store.market.looks.without_dominance(session, now - LOOKED_BACK, LONGEST_WITHOUT_DOMINANCE)
    return MarketStatus(mode=mode, newest=max(ends.values(), default=None), sources=sources, still=still, unpolled=gaps)
