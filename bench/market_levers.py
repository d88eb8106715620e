"""Levers of 1,000 tokens as of one instant, from states on record, beside as many one after the other."""

import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import BUCKETS, Driver, Flag, MarketStateRow, Timeframe
from closeloop.models.market_levers import BucketContext, TokenAsked
from closeloop.models.policy import LeversPolicy
from closeloop.services import market_levers
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from closeloop.workers.garbage import collect_rarely

TOKENS = 1_000
ONE_BY_ONE = 50
ROUNDS = 15
BARS = 2_000  # of each series: states are looked for beside others
TIMEFRAMES = ("1m", "15m", "1h", "4h")


class LeversTiming(NamedTuple):
    """Of 1,000 tokens in one go: median time (ms); and how many times as long as many asked one by one take."""

    milliseconds: float
    one_by_one: float


async def levers(sessions: Sessions) -> LeversTiming:
    """Print both."""
    collect_rarely()  # as the process does that gives them
    policy = LeversPolicy()
    now = datetime.now(UTC).replace(second=30, microsecond=0)
    asked = [_token(number) for number in range(TOKENS)]
    together, alone = [], []
    async with sessions() as session:
        await _store(session, now)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            found = await market_levers.of_tokens(session, asked, now, policy)
            together.append(1000 * (time.perf_counter() - started))
            started = time.perf_counter()
            single = [await market_levers.as_of(session, each, now, policy) for each in asked[:ONE_BY_ONE]]
            alone.append(1000 * (time.perf_counter() - started) / ONE_BY_ONE * TOKENS)
            assert [each.levers.A for each in found.tokens[:ONE_BY_ONE]] == [each.A for each in single]
            assert (len(found.tokens), found.tokens[0].levers.missing) == (TOKENS, ())
        await session.rollback()  # the market is shared by everything in the database
    median = statistics.median(together)
    print(f"Levers of {TOKENS} tokens in four buckets, from the states of 24 series of {BARS} bars")
    print(f"  in one go                {median:7.1f} ms   lowest {min(together):7.1f} ms")
    print(f"  one by one               {statistics.median(alone):7.1f} ms")
    return LeversTiming(median, statistics.median(alone) / median)


def _token(number: int) -> TokenAsked:
    return TokenAsked(
        token=f"token-{number}",
        bucket=BUCKETS[number % len(BUCKETS)].value,
        timeframe=TIMEFRAMES[number // 4 % len(TIMEFRAMES)],
        intent={"hi_buy": number % 11 / 10, "sell": number % 7 / 6},
        context=BucketContext(rank=1 + number % 6, slope=0.1, confidence=0.8) if number % 2 else None,
    )


async def _store(session: AsyncSession, now: datetime) -> None:
    for driver in Driver:
        for timeframe in Timeframe:
            end = datetime.fromtimestamp(now.timestamp() // timeframe.seconds * timeframe.seconds, UTC)
            rows = [
                {
                    "driver": driver,
                    "timeframe": timeframe,
                    "bar_end": end - back * timeframe.step,
                    "bar_start": end - (back + 1) * timeframe.step,
                    "revision": 0,
                    "computed_at": end - back * timeframe.step + timedelta(seconds=1),
                    "state": ("S0", "S1", "S2", "S3")[back % 4],
                    "prev_state": "S3",
                    "published": True,
                    "provisional": False,
                    "flags": [Flag.trim_flag] if back % 3 == 0 else [],
                    "indicators": [],
                }
                for back in range(BARS)
            ]
            await execute(session, insertion(MarketStateRow, rows))
