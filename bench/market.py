"""The market: a live tick of its 24 series, and the engine over a million bars."""

import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from bench.peak import peak_mebibytes
from closeloop import store
from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.engine import advance
from closeloop.models.market import BUCKETS, DOMINANCES, Driver, Timeframe, priced_as
from closeloop.models.market_series import AdvanceMarket
from closeloop.models.policy import LearningPolicy
from closeloop.services.market_series import take_dominance
from closeloop.store.database import Sessions

TOKENS_A_BUCKET = 20
HISTORY_MINUTES = 2 * 1_440
HISTORY_HOURS, HISTORY_DAYS = 24 * 365, 365
TICKS = 120
MIDNIGHTS = 5
MILLION = 1_000_000
AGAIN_BARS = 2_000
_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_T0 = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class MarketFigures:
    """Milliseconds of a tick: the median, and that of midnights, when all 24 series have a new bar."""

    tick: float
    midnight: float


@dataclass
class EngineFigures:
    """Of a million bars: seconds, MiB at most, and times the rate of computing a series anew at each bar."""

    seconds: float
    mebibytes: float
    ratio: float


class _Market:
    """Random walks of every component, minute by minute, as a collector stores them."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.policy = LearningPolicy()
        self.now = _T0
        self._rng = np.random.default_rng(7)
        self.assets = [priced_as(Driver.btc), *(priced_as(name) for name in self.policy.market.alt_components)]
        self.tokens = {bucket: [f"{bucket}{i}/USDT" for i in range(TOKENS_A_BUCKET)] for bucket in BUCKETS}
        self.assets += [asset for tokens in self.tokens.values() for asset in tokens]
        self._close = np.full(len(self.assets), 100.0)
        self._dominance = 50.0
        self._activities = MarketSeriesActivities(sessions, self.policy)

    async def begin(self) -> None:
        """Tokens in their buckets, and a year of hours and days before the first minute."""
        async with self.sessions.begin() as session:
            await session.execute(
                text("TRUNCATE price_history, regime_price_data_ohlc, market_states, market_checkpoints, market_tokens")
            )
            for bucket, tokens in self.tokens.items():
                await session.execute(
                    text(
                        "INSERT INTO market_tokens (asset, bucket, valid_from) "
                        "SELECT asset, :bucket, :start FROM unnest(CAST(:tokens AS text[])) AS t (asset)"
                    ),
                    {"bucket": bucket.value, "start": _T0 - _DAY, "tokens": tokens},
                )
            spans = []
            for timeframe, n in ((Timeframe.h1, HISTORY_HOURS), (Timeframe.d1, HISTORY_DAYS)):
                for driver in Driver:
                    bars = walk(n, timeframe.seconds, int(_T0.timestamp()) - n * timeframe.seconds, len(spans))
                    span = store.market.bars.Span(driver, None, _T0)
                    spans.append((timeframe, store.market.bars.SeriesBars(span, bars, "rollup")))
            for timeframe, bars_of in spans:
                await store.market.bars.write(session, timeframe, [bars_of])

    async def minutes(self, n: int) -> None:
        """Store the next minutes of every component, and polls of the dominances every ten."""
        moves = self._rng.normal(0, 1e-3, (n, len(self.assets)))
        close = self._close * np.exp(np.cumsum(moves, axis=0))
        open_ = np.concatenate((self._close[None], close[:-1]))
        high, low = np.maximum(open_, close) * 1.0003, np.minimum(open_, close) * 0.9997
        self._close = close[-1]
        ends = [self.now + (i + 1) * _MINUTE for i in range(n)]
        async with self.sessions.begin() as session:
            await session.execute(
                text(
                    "INSERT INTO price_history (asset, interval_seconds, ends_at, open, high, low, close, volume, "
                    "source) SELECT asset, 60, ends_at, round(open::numeric, 6), round(high::numeric, 6), "
                    "round(low::numeric, 6), round(close::numeric, 6), 10, 'binance' FROM unnest("
                    "CAST(:assets AS text[]), CAST(:ends AS timestamptz[]), CAST(:open AS float8[]), "
                    "CAST(:high AS float8[]), CAST(:low AS float8[]), CAST(:close AS float8[])) "
                    "AS g (asset, ends_at, open, high, low, close)".replace("::", "\\:\\:")
                ),
                {
                    "assets": self.assets * n,
                    "ends": [end for end in ends for _ in self.assets],
                    "open": open_.ravel().tolist(),
                    "high": high.ravel().tolist(),
                    "low": low.ravel().tolist(),
                    "close": close.ravel().tolist(),
                },
            )
            marks = {store.market.changes.of_asset(asset): self.now for asset in self.assets}
            await store.market.changes.mark(session, marks)
            for end in ends:
                if end.minute % 10 == 0 or n == 1:
                    self._dominance *= math.exp(self._rng.normal(0, 1e-3))
                    for driver in DOMINANCES:
                        await take_dominance(
                            session, driver, end - timedelta(seconds=10), self._dominance, self.policy.market
                        )
        self.now = ends[-1]

    async def advance(self) -> float:
        """Bring all 24 series up to now; how long it took (ms)."""
        started = time.perf_counter()
        for timeframe in Timeframe:
            more = True
            while more:
                message = AdvanceMarket(timeframe=timeframe, until=self.now)
                more = (await ActivityEnvironment().run(self._activities.advance_market, message)).more
        return (time.perf_counter() - started) * 1_000


async def live_tick(sessions: Sessions) -> MarketFigures:
    """Print how long a tick takes: from candles on record to states on record."""
    market = _Market(sessions)
    await market.begin()
    await market.minutes(HISTORY_MINUTES - 1)
    history = await market.advance()
    ticks, midnights = [], []
    for number in range(MIDNIGHTS):
        await market.minutes(1)
        midnights.append(await market.advance())
        for _ in range(TICKS // MIDNIGHTS):
            await market.minutes(1)
            ticks.append(await market.advance())
        if number < MIDNIGHTS - 1:
            await market.minutes(1_440 - 1 - TICKS // MIDNIGHTS)
            await market.advance()
    async with sessions() as session:
        states = (await session.execute(text("SELECT count(*) FROM market_states"))).scalar_one()
        expected = "SELECT count(*) FROM regime_price_data_ohlc"
        assert states == (await session.execute(text(expected))).scalar_one()
    tick, midnight = statistics.median(ticks), statistics.median(midnights)
    print(f"The market: 8 drivers of {len(market.assets)} components, a year of hours and days, {states:,} states")
    print(f"  a minute of every component   {tick:6.1f} ms (median of {len(ticks)}, at most {max(ticks):.0f} ms)")
    print(f"  midnight: all 24 series       {midnight:6.1f} ms (median of {len(midnights)})")
    print(f"  the history before            {history / 1_000:6.1f} s")
    return MarketFigures(tick, midnight)


def engine_rate() -> EngineFigures:
    """Print the engine's rate over a million minutes, measured in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "bench.market"], check=True, capture_output=True, text=True)
    seconds, mebibytes, again = map(float, done.stdout.split())
    ratio = (MILLION / seconds) / (AGAIN_BARS / again)
    print(f"The engine: {MILLION:,} minutes in {seconds:.1f} s, at most {mebibytes:.0f} MiB")
    print(f"  the whole series anew at each of {AGAIN_BARS:,} bars: {again:.1f} s, {ratio:.0f} times slower a bar")
    return EngineFigures(seconds, mebibytes, ratio)


def walk(n: int, seconds: int, start: int, seed: int) -> Bars:
    """A random walk of n bars."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    open_ = np.append(100.0, close[:-1])
    volume = rng.uniform(1, 100, n)
    high, low = np.maximum(open_, close) * 1.0003, np.minimum(open_, close) * 0.9997
    return Bars(start + np.arange(n) * seconds, open_, high, low, close, volume)


def _engine() -> None:
    policy = LearningPolicy().market
    bars = walk(MILLION, 60, 0, 1)
    started = time.perf_counter()
    advance(None, bars, Timeframe.m1, policy)
    seconds = time.perf_counter() - started
    mebibytes = peak_mebibytes()
    started = time.perf_counter()
    for end in range(1, AGAIN_BARS + 1):
        advance(None, bars[:end], Timeframe.m1, policy)
    print(seconds, mebibytes, time.perf_counter() - started)


if __name__ == "__main__":
    _engine()
