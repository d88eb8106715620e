"""A floor of a test's own for forecasts: a database, candles, the activities, and what they left behind."""

import dataclasses
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import asyncpg
import pytest
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.forecasts import ForecastActivities
from closeloop.activities.prices import PriceActivities
from closeloop.activities.producers import ProducerActivities
from closeloop.gateways.binance import Binance
from closeloop.gateways.candles import Candle, RefusedRow
from closeloop.models.forecasts import Forecast, ResolutionKey, ResolutionReport, ResolvePages
from closeloop.models.policy import LearningPolicy
from closeloop.models.prices import FetchPrices, PriceImport, PricesFetched
from closeloop.models.producers import PerformanceReport, PerformanceRequest
from closeloop.services import prices
from closeloop.services.prices import PriceFile
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.store.forecasts import ForecastsRecorded
from tests.store.databases import query, scratch_database

T0 = datetime(2026, 3, 2, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
WRITTEN = datetime(2027, 1, 1, tzinfo=UTC)  # after every candle of the tests had ended
POLICY = LearningPolicy()
TABLES = (
    "forecasts, forecast_resolution_state, forecast_outcomes, resolutions, price_history, price_coverage, "
    "price_imports, price_gaps, price_refusals, price_source_assets, outcomes_to_recompute, "
    "performance_windows, performance_due, producer_daily_bins, pair_daily, producer_performance, "
    "producer_correlation, recalibration_maps, producer_health, producer_heartbeats, meta_decisions, meta_modes, "
    "meta_proposals, events"
)


@dataclasses.dataclass
class Floor:
    """A database of one test: its candles, the activities over it, and what they wrote."""

    dsn: str
    engine: AsyncEngine
    sessions: Sessions
    policy: LearningPolicy = POLICY

    async def clear(self) -> None:
        """As if nothing had ever happened."""
        async with self.sessions.begin() as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))  # events are append-only
            await session.execute(text(f"TRUNCATE {TABLES} CASCADE"))

    async def sql(self, sql: str, **values: Any) -> list[RowMapping]:
        return await query(self.sessions, sql, **values)

    async def record(self, *forecasts: Forecast, shadow: bool = False) -> ForecastsRecorded:
        async with self.sessions.begin() as session:
            ordered = sorted(forecasts, key=lambda f: f.key)
            return await store.forecasts.record(session, ordered, shadow=shadow)

    async def trade(self, asset: str, closes: Mapping[datetime, Any], interval: timedelta = 5 * MINUTE) -> int:
        """Import candles by when they end, as a file that was written later; how many are new."""
        read = [
            Candle(ends_at - interval, *[Decimal(str(close))] * 4, None)  # type: ignore[arg-type]
            for ends_at, close in closes.items()
        ]
        return (await self.import_candles(asset, read, interval)).imported

    async def import_candles(
        self,
        asset: str,
        rows: Iterable[Candle | RefusedRow],
        interval: timedelta = 5 * MINUTE,
        written_at: datetime | None = WRITTEN,
        replace: bool = False,
    ) -> PriceImport:
        """A file of candles, without what comes after it."""
        file = PriceFile("a.csv", written_at, replace)
        async with self.sessions.begin() as session:
            return await prices.store_candles(session, asset, int(interval.total_seconds()), rows, lambda _: None, file)

    async def cover(self, asset: str, from_at: datetime, to_at: datetime, interval: timedelta = 5 * MINUTE) -> None:
        async with self.sessions.begin() as session:
            await store.prices.cover(session, asset, int(interval.total_seconds()), from_at, to_at)

    async def reopen(self, *assets: str) -> int:
        async with self.sessions.begin() as session:
            return await store.prices.reopen(session, assets)

    async def resolve(self, as_of: datetime, resolution_id: str = "a run", fetched: PricesFetched | None = None) -> int:
        """All pages; how many forecasts have no price. ``fetched``: what the source said, null: it was not asked."""
        left, after = 0, None
        while True:
            request = ResolvePages(resolution_id=resolution_id, as_of=as_of, after=after, fetched=fetched)
            pages = await ActivityEnvironment().run(
                ForecastActivities(self.sessions, self.policy).resolve_pages, request
            )
            left, after = left + pages.left, pages.after
            if after is None:
                return left

    async def report(self, as_of: datetime, resolution_id: str = "a run") -> ResolutionReport:
        key = ResolutionKey(resolution_id=resolution_id, as_of=as_of, workflow_id="w")
        return await ActivityEnvironment().run(ForecastActivities(self.sessions, self.policy).report_resolution, key)

    async def fetch(
        self, source: Binance, as_of: datetime, ask_again: bool = False, resolution_id: str = "a run"
    ) -> PricesFetched:
        request = FetchPrices(resolution_id=resolution_id, as_of=as_of, ask_again=ask_again)
        return await ActivityEnvironment().run(
            PriceActivities(self.sessions, self.policy, source).fetch_prices, request
        )

    async def perform(self, as_of: datetime) -> PerformanceReport:
        request = PerformanceRequest(as_of=as_of)
        return await ActivityEnvironment().run(
            ProducerActivities(self.sessions, self.policy).update_performance, request
        )

    async def recalibrate(self, as_of: datetime) -> list[str]:
        request = PerformanceRequest(as_of=as_of)
        activities = ProducerActivities(self.sessions, self.policy)
        return (await ActivityEnvironment().run(activities.update_recalibration, request)).recalibrations

    async def outcomes(self, shadow: bool = False) -> dict[str, RowMapping]:
        """By forecast; fails if one has two."""
        rows = await self.sql("SELECT * FROM forecast_outcomes WHERE shadow = :shadow", shadow=shadow)
        found = {row["forecast_id"]: row for row in rows}
        assert len(found) == len(rows)
        return found

    async def states(self) -> dict[str, RowMapping]:
        """What is to be resolved, by forecast."""
        return {row["forecast_id"]: row for row in await self.sql("SELECT * FROM forecast_resolution_state")}

    async def events(self, kind: str) -> list[dict[str, Any]]:
        """Payloads of a type of event, in order."""
        rows = await self.sql("SELECT payload FROM events WHERE type = :kind ORDER BY id", kind=kind)
        return [row["payload"] for row in rows]


@asynccontextmanager
async def floor_on(dsn: str, timezone: str = "UTC", pool_size: int = 12) -> AsyncIterator[Floor]:
    """A floor with an empty database whose sessions would begin in a time zone."""
    async with scratch_database(dsn) as own:
        admin = await asyncpg.connect(own)
        await admin.execute(f"ALTER DATABASE {own.rsplit('/', 1)[1]} SET timezone = '{timezone}'")
        await admin.close()
        engine = open_engine(own, pool_size=pool_size)
        try:
            yield Floor(own, engine, sessions_of(engine))
        finally:
            await engine.dispose()


def forecast(name: str, **changes: Any) -> Forecast:
    """Of ADA/BTC over an hour from T0, long at 70 %."""
    values: dict[str, Any] = {
        "forecast_id": name,
        "book": "b",
        "producer_id": "ta",
        "asset": "ADA/BTC",
        "horizon": "1h",
        "action": "long",
        "confidence": 0.7,
        "issued_at": T0,
    }
    return Forecast.model_validate(values | changes)


def abstention(name: str, **changes: Any) -> Forecast:
    return forecast(name, **{"action": "no_forecast", "confidence": None, "abstention_reason": "no idea"} | changes)


def candle_row(asset: str, ends_at: datetime, close: Any, interval: timedelta = 5 * MINUTE) -> dict[str, Any]:
    price = Decimal(str(close))
    return {
        "asset": asset,
        "interval_seconds": int(interval.total_seconds()),
        "ends_at": ends_at,
        **dict.fromkeys(("open", "high", "low", "close"), price),
        "volume": None,
        "source": "a test",
    }


def every(interval: timedelta, first: datetime, last: datetime, price: float = 100.0) -> dict[datetime, float]:
    """Closes of candles that end from ``first`` to ``last``, each a little higher: each is known by its price."""
    count = (last - first) // interval + 1
    return {first + i * interval: price + i for i in range(count)}


Series = Mapping[tuple[str, int], Mapping[datetime, float]]
"""Closes by when their candle ended, by (asset, interval in seconds)."""


def plain_price(
    series: Series, asset: str, t: datetime, covered: Iterable[tuple[str, int, datetime, datetime]] = ()
) -> float | None:
    """The price of an asset at an instant, one candle looked at after the other."""
    best: tuple[datetime, int, float] | None = None
    for (of, seconds), closes in series.items():
        for ends_at, close in closes.items():
            if of != asset or seconds > 1800 or not t - 30 * MINUTE <= ends_at <= t:
                continue
            if best is None or ends_at > best[0] or (ends_at == best[0] and seconds < best[1]):
                best = ends_at, seconds, close
    if best is None:
        return None
    ends_at, seconds, close = best
    step = timedelta(seconds=seconds)
    later = min((end for end in series[asset, seconds] if end > t), default=None)
    if t - ends_at < step or (later is not None and later - ends_at <= DAY):
        return close
    missing = [ends_at + n * step for n in range(1, (t - ends_at) // step + 1)]
    told = any(
        (of, of_seconds) == (asset, seconds) and all(start <= end <= stop for end in missing)
        for of, of_seconds, start, stop in covered
    )
    return close if told else None


def plain_outcome(said: Forecast, issue: float, target: float) -> dict[str, Any]:
    """What came of a forecast."""
    issued_at, was = Fraction(str(issue)), Fraction(str(target))
    exact = 100 * (was - issued_at) / issued_at
    change = float(exact)
    right = {"long": exact > 0, "short": exact < 0, "flat": abs(exact) <= Fraction(1, 4)}[said.action]
    assert said.confidence is not None
    return {"return_pct": change, "direction_correct": right, "brier_score": (said.confidence - right) ** 2}


def price_by_bisection(ends: Sequence[datetime], closes: Sequence[float], t: datetime) -> float | None:
    """For one series of candles that is long: the same without evidence of gaps, which the caller must have."""
    at = bisect_right(ends, t) - 1
    return closes[at] if at >= 0 and t - ends[at] <= 30 * MINUTE else None


def assert_outcome(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-12, abs=1e-12)
