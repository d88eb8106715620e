"""What states are made of is asked of the market's sources: one-minute candles of Binance, dominances of CoinGecko.

Each source stands for itself: one that is down, slow, or asks to wait holds up no other one.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.heartbeats import beating
from closeloop.activities.prices import PriceSource
from closeloop.activities.transactions import transaction
from closeloop.gateways.binance import MISSING_AFTER, SETTLED_AFTER, Klines, Page
from closeloop.gateways.coingecko import Dominance
from closeloop.gateways.sources import SourceNonsense, SourceRefused, SourceUnavailable, UnknownSymbol
from closeloop.models.market import Driver, Timeframe, priced_as
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.market_sources import (
    COINGECKO,
    CollectMarket,
    MarketCollected,
    MarketMode,
    SourceStanding,
    Unpolled,
    candles_of,
)
from closeloop.services.market_series import take_dominance
from closeloop.store.database import Sessions

MINUTE = Timeframe.m1.step
# Of one run of the activity: prices that forecasts lack wait for no longer than this and one answer.
ASKING_SECONDS = 5.0
# CoinGecko computes dominances anew every ten minutes: a poll in between would be told the same.
POLLED_EVERY = timedelta(minutes=10)
# So long without a value, the minutes of dominances are not used any more.
LONGEST_UNPOLLED = timedelta(minutes=30)
# A source that fails is asked again this much later, then after twice as long each time, up to the second one.
OUTAGE = (timedelta(minutes=1), timedelta(minutes=10))
UNKNOWN = (timedelta(hours=1), timedelta(days=1))


class DominanceSource(Protocol):
    """Where dominances come from (gateways/coingecko.py)."""

    async def dominance(self, now: datetime) -> Dominance:
        """One question. Raises SourceUnavailable, SourceNonsense, SourceRefused."""
        ...


class MarketSourceActivities:
    """Asks the market's sources, on the queue of price sources: one request at a time."""

    def __init__(
        self,
        sessions: Sessions,
        policy: MarketPolicy,
        mode: MarketMode,
        candles: PriceSource,
        dominance: DominanceSource,
        history: timedelta,
    ) -> None:
        """``history``: how far back candles are asked for of an asset that was never asked for."""
        self._sessions = sessions
        self._assets = sorted({priced_as(name) for name in (Driver.btc, *policy.alt_components)})
        self._mode = mode
        self._policy = policy
        self._candles = candles
        self._dominance = dominance
        self._history = history

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.collect_market]

    @activity.defn(name="collect_market")
    async def collect_market(self, request: CollectMarket) -> MarketCollected:
        """Ask each source for what is due, for a few seconds; every answer is stored as it comes.

        Where the worker's mode is not to ask, that is all it says.
        """
        report = MarketCollected(mode=self._mode)
        async with beating():
            if self._mode == "sources":
                seen = await self._seen()
                await self._collect_candles(seen, report)
                await self._poll(seen.get(COINGECKO), report)
                report.sources = list((await self._seen()).values())
        return report

    async def _seen(self) -> dict[str, SourceStanding]:
        """How each source does that is still asked."""
        async with transaction(self._sessions) as session:
            await store.market.sources.keep_candles_of(session, [candles_of(asset) for asset in self._assets])
            return {one.source: one for one in await store.market.sources.listing(session)}

    async def _collect_candles(self, seen: Mapping[str, SourceStanding], report: MarketCollected) -> None:
        """Ask for every minute that has ended since the last one on record, the asset first that is furthest behind:
        composites then are made of all of their components."""
        behind = self._due(seen)
        deadline = asyncio.get_running_loop().time() + ASKING_SECONDS
        while behind:
            asset, until = min(behind.items(), key=lambda one: (one[1], one[0]))
            now = datetime.now(UTC)
            if until + MINUTE + SETTLED_AFTER > now:
                break  # no minute has ended since, nor for the others
            if asyncio.get_running_loop().time() > deadline:
                report.more = True
                break
            try:
                # To the last minute, though an answer has its limit: it begins with the first candle that there is.
                klines = await self._candles.candles(asset, Page(60, until + MINUTE, _minute(now)), now)
            except SourceUnavailable as error:
                failing = list(behind) if error.for_all else [asset]
                await self._failed(failing, error.reason, now, OUTAGE, timedelta(seconds=error.retry_after or 0))
                for one in failing:
                    del behind[one]
            except UnknownSymbol:
                await self._failed([asset], f"it does not know {asset}", now, UNKNOWN)
                del behind[asset]
            except (SourceNonsense, SourceRefused) as error:
                await self._failed([asset], str(error), now, OUTAGE)
                del behind[asset]
            else:
                collected_until = await self._store(asset, klines, now, report)
                if collected_until is None or not until < collected_until < now - MISSING_AFTER:
                    del behind[asset]  # that was all there is
                else:
                    behind[asset] = collected_until

    def _due(self, seen: Mapping[str, SourceStanding]) -> dict[str, datetime]:
        """Up to where candles of each asset are on record that may be asked for now."""
        now = datetime.now(UTC)
        start = _minute(now - self._history)
        standings = {asset: seen.get(candles_of(asset)) for asset in self._assets}
        return {
            asset: (standing and standing.collected_until) or start
            for asset, standing in standings.items()
            if _may_be_asked(standing, now)
        }

    async def _store(self, asset: str, klines: Klines, asked_at: datetime, report: MarketCollected) -> datetime | None:
        """Store an answer and up to where it reaches, in one transaction; returns the latter."""
        rows: list[dict[str, Any]] = [
            {
                "asset": asset,
                "interval_seconds": klines.interval_seconds,
                "ends_at": c.start + MINUTE,
                "open": c.open,
                "high": c.high,
                "low": c.low,
                "close": c.close,
                "volume": c.volume,
                "source": "binance",
            }
            for c in klines.candles
        ]
        ends = [row["ends_at"] for row in rows]
        until = max([*ends, *(last for _, last in klines.covered)], default=None)
        source = candles_of(asset)
        async with transaction(self._sessions) as session:
            new = (await store.prices.add(session, rows)).new
            if rows:
                await store.price_imports.heed_fetched(session, asset, klines.interval_seconds)
            for first, last in _with_gaps(klines.covered, ends):
                await store.prices.cover(session, asset, klines.interval_seconds, first, last)
            await store.market.sources.answered(session, source, asked_at, collected_until=until)
        if new:
            report.candles[source] = report.candles.get(source, 0) + new
        return until

    async def _failed(
        self,
        assets: Iterable[str],
        reason: str,
        asked_at: datetime,
        waits: tuple[timedelta, timedelta],
        at_least: timedelta = timedelta(0),
    ) -> None:
        failures: Mapping[str, str] = {candles_of(asset): reason for asset in assets}
        async with transaction(self._sessions) as session:
            await store.market.sources.failed(session, failures, asked_at, *waits, at_least)

    async def _poll(self, standing: SourceStanding | None, report: MarketCollected) -> None:
        """Ask for the dominances, where their source may have new ones, and write them as bars."""
        now = datetime.now(UTC)
        if not _may_be_asked(standing, now):
            return
        try:
            found = await self._dominance.dominance(now)
        except (SourceUnavailable, SourceNonsense, SourceRefused) as error:
            wait = error.retry_after if isinstance(error, SourceUnavailable) else None
            async with transaction(self._sessions) as session:
                failed = {COINGECKO: str(error)}
                await store.market.sources.failed(session, failed, now, *OUTAGE, timedelta(seconds=wait or 0))
            return
        now = datetime.now(UTC)
        names = {Driver.btc_d: "btc", Driver.usdt_d: "usdt"}
        report.without = {driver: found.without[name] for driver, name in names.items() if name in found.without}
        async with transaction(self._sessions) as session:
            report.polled = await store.market.sources.answered(
                session, COINGECKO, now, updated_at=found.updated_at, next_attempt_at=now + POLLED_EVERY
            )
            if report.polled:
                for driver, share in ((Driver.btc_d, found.btc), (Driver.usdt_d, found.usdt)):
                    await take_dominance(session, driver, now, share, self._policy)
        if standing and standing.answered_at and now - standing.answered_at > LONGEST_UNPOLLED:
            report.unpolled = Unpolled(from_at=standing.answered_at, to_at=now)


def _may_be_asked(standing: SourceStanding | None, now: datetime) -> bool:
    return standing is None or standing.next_attempt_at is None or standing.next_attempt_at <= now


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)


def _with_gaps(
    covered: Iterable[tuple[datetime, datetime]], ends: Iterable[datetime]
) -> Iterable[tuple[datetime, datetime]]:
    """Those of the ranges in which a candle is missing; of the others their candles tell."""
    known = sorted(ends)
    for first, last in covered:
        if sum(first <= end <= last for end in known) <= (last - first) // MINUTE:
            yield first, last
