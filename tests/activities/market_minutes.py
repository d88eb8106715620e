"""Simulated candles of the drivers' components, and what is computed of them."""

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.models.market import Driver, MarketToken, Timeframe
from closeloop.models.market_series import AdvanceMarket, MarketAdvanced
from closeloop.models.policy import LearningPolicy
from closeloop.services.market_series import take_dominance
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from tests.store.databases import query, scratch_database, sessions_on

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BTC = "BTC/USDT"
ALT = ("SOL/USDT", "ETH/USDT", "BNB/USDT", "HYPE/USDT")
TOKENS = ("A/USDT", "B/USDT", "C/USDT", "D/USDT")
# Hours begin to have states in two days of minutes.
POLICY = LearningPolicy.model_validate({"market": {"start_bars": 28, "published_bars": {"1m": 40, "1h": 30, "1d": 1}}})


@dataclasses.dataclass(frozen=True)
class Candle:
    asset: str
    end: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float

    def row(self) -> dict[str, Any]:
        prices = {name: Decimal(repr(getattr(self, name))) for name in ("open", "high", "low", "close", "volume")}
        return {"asset": self.asset, "interval_seconds": 60, "ends_at": self.end, "source": "binance"} | prices


def walk(asset: str, minutes: int, seed: int, start: datetime = T0, gaps: float = 0.0) -> list[Candle]:
    """A random walk of so many minutes, of which a share has no candle."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, minutes) + 4e-4 * np.sin(np.arange(minutes) / 300)))
    open_ = np.append(100.0, close[:-1])
    high, low = np.maximum(open_, close) * 1.0004, np.minimum(open_, close) * 0.9997
    volume, there = rng.uniform(1, 50, minutes), rng.uniform(size=minutes) >= gaps
    columns = zip(open_.tolist(), high.tolist(), low.tolist(), close.tolist(), volume.tolist(), strict=True)
    return [Candle(asset, start + (i + 1) * MINUTE, *row) for i, row in enumerate(columns) if there[i]]


@dataclasses.dataclass(frozen=True)
class Computed:
    """Bars, newest states and counts of a market."""

    bars: dict[tuple[str, str, datetime], tuple[Any, ...]]
    states: dict[tuple[str, str, datetime], tuple[Any, ...]]
    counts: dict[tuple[str, str, str], int]

    def check(self, other: "Computed") -> None:
        """Fail unless it is the same."""
        assert self.bars == other.bars
        assert self.states.keys() == other.states.keys()
        assert [key for key, row in self.states.items() if row != other.states[key]] == []
        assert self.counts == other.counts


class Market:
    """A market on a database of its own. What a test expects is what another one computes at once."""

    def __init__(self, dsn: str, sessions: Sessions) -> None:
        self.dsn, self.sessions = dsn, sessions

    async def trade(self, candles: Sequence[Candle], *, replace: bool = False) -> None:
        async with self.sessions.begin() as session:
            for at in range(0, len(candles), 5_000):
                await store.prices.add(session, [each.row() for each in candles[at : at + 5_000]], replace=replace)

    async def belong(self, asset: str, bucket: Driver, start: datetime = T0, end: datetime | None = None) -> None:
        async with self.sessions.begin() as session:
            row = {"asset": asset, "bucket": bucket, "valid_from": start, "valid_to": end}
            await execute(
                session,
                insertion(
                    MarketToken,
                    [row],
                    on_conflict="(asset, valid_from) DO UPDATE SET valid_to = excluded.valid_to",
                ),
            )
            await store.market.changes.mark(session, {store.market.changes.of_bucket(bucket): end or start})

    async def poll(self, polls: Mapping[datetime, float | None], policy: LearningPolicy = POLICY) -> list[bool]:
        """BTC.d, one poll a transaction."""
        taken = []
        for at, value in polls.items():
            async with self.sessions.begin() as session:
                taken.append(await take_dominance(session, Driver.btc_d, at, value, policy.market))
        return taken

    async def advance(
        self, timeframe: Timeframe, until: datetime, policy: LearningPolicy = POLICY, batch: int = 5_000
    ) -> list[MarketAdvanced]:
        """As often as it says that there is more."""
        activities = MarketSeriesActivities(self.sessions, policy, batch)
        told = []
        while not told or told[-1].more:
            message = AdvanceMarket(timeframe=timeframe, until=until)
            told.append(await ActivityEnvironment().run(activities.advance_market, message))
        return told

    async def advance_all(self, until: datetime, policy: LearningPolicy = POLICY, batch: int = 5_000) -> None:
        for timeframe in Timeframe:
            await self.advance(timeframe, until, policy, batch)

    async def states(self, revision: str = "newest") -> dict[tuple[str, str, datetime], tuple[Any, ...]]:
        """What is on record of each bar: its newest revision without withdrawn ones, or the first."""
        rows = await query(
            self.sessions,
            "SELECT DISTINCT ON (driver, timeframe, bar_end) * FROM market_states "
            f"ORDER BY driver, timeframe, bar_end, revision {'DESC' if revision == 'newest' else ''}",
        )
        values = ["state", "prev_state", "published", "provisional", "flags", "ts", "ox", "dx", "edx", "indicators"]
        return {
            (row["driver"], row["timeframe"], row["bar_end"]): tuple(row[name] for name in values)
            for row in rows
            if row["indicators"]
        }

    async def bars(self) -> dict[tuple[str, str, datetime], tuple[Any, ...]]:
        rows = await query(self.sessions, "SELECT * FROM regime_price_data_ohlc")
        values = ["open_usd", "high_usd", "low_usd", "close_usd", "volume", "component_count", "n_source"]
        return {
            (row["driver"], row["timeframe"], row["timestamp"]): tuple(row[name] for name in values) for row in rows
        }

    async def revised(self) -> dict[tuple[str, str], datetime]:
        """End of the first bar that has more than one revision, by driver and timeframe."""
        rows = await query(
            self.sessions,
            "SELECT driver, timeframe, min(bar_end) AS first FROM market_states WHERE revision > 0 GROUP BY 1, 2",
        )
        return {(row["driver"], row["timeframe"]): row["first"] for row in rows}

    async def revised_bars(self) -> list[tuple[str, str, datetime]]:
        """Driver, timeframe and start of the bars that were changed after they had been written."""
        rows = await query(self.sessions, "SELECT * FROM regime_price_data_ohlc WHERE revision > 0 ORDER BY 1, 3, 4")
        return [(row["driver"], row["timeframe"], row["timestamp"]) for row in rows]

    async def counts(self) -> dict[tuple[str, str, str], int]:
        rows = await query(self.sessions, "SELECT * FROM market_bar_counts")
        return {(row["driver"], row["asset"], row["kind"]): row["bars"] for row in rows}

    async def clear(self) -> None:
        async with self.sessions.begin() as session:
            await session.execute(
                text(
                    "TRUNCATE price_history, regime_price_data_ohlc, market_states, market_checkpoints, "
                    "market_changes, market_bar_counts, market_tokens, failing_work"
                )
            )

    async def computed(self) -> "Computed":
        """Everything that is computed, as it is now."""
        return Computed(await self.bars(), await self.states(), await self.counts())

    async def same_as(self, other: "Market") -> None:
        """Fail unless everything that is computed is what another market has."""
        (await self.computed()).check(await other.computed())


@asynccontextmanager
async def market_on(dsn: str) -> AsyncIterator[Market]:
    """A market on a database of its own."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield Market(scratch, sessions)
