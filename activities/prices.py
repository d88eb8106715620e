"""Prices that are missing, asked of the source: one request for a symbol and range, as few as there can be."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Any, Protocol

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.forecasts import FIRST_RETRY_AFTER, LONGEST_RETRY_AFTER, due_at
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.gateways.binance import (
    Klines,
    Page,
    pages,
)
from closeloop.gateways.sources import SourceNonsense, SourceRefused, SourceUnavailable, UnknownSymbol
from closeloop.models.policy import LearningPolicy
from closeloop.models.prices import FetchPrices, PricesFetched
from closeloop.store.database import Sessions

# Instants further apart than this are asked for separately: candles in between would be finer without them.
LONGEST_RANGE = timedelta(days=3)
ASKING_SECONDS = 30.0  # of one run of the activity; what is left is asked for by the next one
LONGEST_PAUSE_SECONDS = 15.0  # that the source may ask for before the same request is made again
# A source that gave fewer ranges than this in that time is too slow to be asked again at once.
FEWEST_RANGES_TO_GO_ON = 10
# So many assets in a row without an answer: the source is down, not only for these.
SILENT_ASSETS = 3
# A report has its limit of bytes in a workflow's history.
MOST_FAILURES_TOLD = 1_000
MOST_RANGES_TOLD = 1_000


class PriceSource(Protocol):
    """Where candles come from (gateways/binance.py)."""

    async def candles(self, asset: str, page: Page, now: datetime) -> Klines:
        """One request. Raises SourceUnavailable, SourceNonsense, SourceRefused, UnknownSymbol."""
        ...


class PriceActivities:
    """Asks the price source, on a task queue of its own, so that a slow source holds up nothing else."""

    forecasts_at_once = 20_000  # whose missing prices are looked for in one run of the activity

    def __init__(self, sessions: Sessions, policy: LearningPolicy, source: PriceSource) -> None:
        self._sessions = sessions
        self._policy = policy
        self._source = source

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.fetch_prices]

    @activity.defn(name="fetch_prices")
    async def fetch_prices(self, request: FetchPrices) -> PricesFetched:
        """Ask for what is due and has no price, for at most half a minute; every answer is stored as it comes."""
        policy = self._policy
        tolerance = timedelta(minutes=policy.forecasts.price_tolerance_minutes)
        due = due_at(request.as_of, policy)
        async with beating():
            if request.ask_again:
                async with transaction(self._sessions) as session:
                    await store.resolution.lock(session)
                    await store.resolution.ask_again(session, due)
            async with transaction(self._sessions) as session:
                missing, more = await store.resolution.missing_prices(
                    session, due, tolerance, request.as_of, self.forecasts_at_once
                )
                seen = await store.price_source.asked(session, sorted({asset for asset, _ in missing}))
            # Each answer is recorded before the next request: the next run then finds only what is still missing.
            report = PricesFetched(more=more)
            if not request.ask_again:
                report.failures = _wait(seen, request.as_of)
            failed: dict[str, str] = {}
            in_a_row = 0  # assets that the source did not answer for
            deadline = asyncio.get_running_loop().time() + ASKING_SECONDS
            for asset, page in _requests(_in_turn(missing, seen), tolerance):
                if asset in report.failures:
                    continue
                if len(report.failures) >= MOST_FAILURES_TOLD or report.ranges >= MOST_RANGES_TOLD:
                    report.more = True  # those are put off or answered, so that the next look finds others
                    break
                if asyncio.get_running_loop().time() > deadline:
                    report.more = report.ranges >= FEWEST_RANGES_TO_GO_ON
                    report.silence = None if report.more else "the price source is too slow: not asked for this yet"
                    break
                try:
                    klines = await self._ask(asset, page, deadline)
                except SourceUnavailable as error:
                    if not error.for_all:
                        report.failures[asset] = failed[asset] = error.reason
                        in_a_row += 1
                    if error.for_all or in_a_row >= SILENT_ASSETS:
                        # Holds for every asset: asking for the rest would only wait for the same answer.
                        report.more, report.silence = False, error.reason
                        break
                except UnknownSymbol:
                    report.unknown.append(asset)
                    report.failures[asset] = "unknown"
                    failed[asset] = f"the price source does not know {asset}"
                    in_a_row = 0
                except (SourceNonsense, SourceRefused) as error:
                    report.failures[asset] = failed[asset] = str(error)
                    in_a_row = 0
                else:
                    in_a_row = 0
                    report.ranges += 1
                    report.candles += await self._store(asset, klines, request)
                    _add_range(report.answered.setdefault(asset, []), page)
            if failed:
                async with transaction(self._sessions) as session:
                    await store.price_source.failed(
                        session, failed, datetime.now(UTC), request.as_of, FIRST_RETRY_AFTER, LONGEST_RETRY_AFTER
                    )
        return report

    async def _ask(self, asset: str, page: Page, deadline: float) -> Klines:
        """One request; where the source says to wait a little, one more after that."""
        try:
            return await self._source.candles(asset, page, datetime.now(UTC))
        except SourceUnavailable as error:
            wait = error.retry_after
            left = deadline - asyncio.get_running_loop().time()
            if wait is None or wait > min(LONGEST_PAUSE_SECONDS, left):
                raise
            await asyncio.sleep(wait)
            return await self._source.candles(asset, page, datetime.now(UTC))

    async def _store(self, asset: str, klines: Klines, request: FetchPrices) -> int:
        step = timedelta(seconds=klines.interval_seconds)
        rows: list[dict[str, Any]] = [
            {
                "asset": asset,
                "interval_seconds": klines.interval_seconds,
                "ends_at": c.start + step,
                "open": c.open,
                "high": c.high,
                "low": c.low,
                "close": c.close,
                "volume": c.volume,
                "source": "binance",
            }
            for c in klines.candles
        ]
        async with transaction(self._sessions) as session:
            new = (await store.prices.add(session, rows)).new
            if rows:
                await store.price_imports.heed_fetched(session, asset, klines.interval_seconds)
            for covered in klines.covered:
                await store.prices.cover(session, asset, klines.interval_seconds, *covered)
            await store.price_source.answered(session, asset, datetime.now(UTC))
            await store.resolution.count(session, request.resolution_id, request.as_of, candles=new)
        return new


def _in_turn(
    missing: Sequence[tuple[str, datetime]], seen: Mapping[str, store.price_source.Asked]
) -> Sequence[tuple[str, datetime]]:
    """(asset, instant) by asset and instant, the asset first that was not asked for the longest time."""
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(missing, key=lambda one: (seen[one[0]].asked_at if one[0] in seen else never, one))


def _wait(seen: Mapping[str, store.price_source.Asked], as_of: datetime) -> dict[str, str]:
    """Assets that the source failed for and is not asked for yet, and why."""
    waiting = {
        asset: f"{one.reason}; asked again from {one.next_attempt_at:%Y-%m-%d %H:%M} UTC"
        for asset, one in sorted(seen.items())
        if one.next_attempt_at is not None and one.next_attempt_at > as_of
    }
    return dict(islice(waiting.items(), MOST_FAILURES_TOLD // 2))


def _add_range(ranges: list[tuple[datetime, datetime]], page: Page) -> None:
    """Add the instants that a page answers for, to the last range where it follows that."""
    start, end = page.first_end, page.last_end + timedelta(seconds=page.interval_seconds)
    if ranges and ranges[-1][1] >= start:
        start = ranges.pop()[0]
    ranges.append((start, end))


def _requests(missing: Sequence[tuple[str, datetime]], tolerance: timedelta) -> Iterator[tuple[str, Page]]:
    """What to ask for: (asset, page), from (asset, instant), those of an asset together and in order."""
    for asset, instants in groupby(missing, key=lambda one: one[0]):
        times = [instant for _, instant in instants]
        start = last = times[0]
        for instant in times[1:]:
            if instant - start > LONGEST_RANGE:
                yield from ((asset, page) for page in pages(start - tolerance, last))
                start = instant
            last = instant
        yield from ((asset, page) for page in pages(start - tolerance, last))
