"""Prices, by which forecasts are resolved: importing, replacing and deleting candles, and listing what is on record."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.gateways.candles import Candle, NotCandles, RefusedRow
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.events import EventType
from closeloop.models.prices import PriceImport, PricesDeleted, PriceSeries, SourceFailure, UnacceptableCandle
from closeloop.store.price_imports import LONGEST_GAP, ImportedSeries

CANDLES_A_STATEMENT = 5_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PriceFile:
    """What is known of a file of candles beside its rows; ``written_at`` is its own time, None of a pipe."""

    name: str | None = None
    written_at: datetime | None = None
    replace: bool = False


NOTHING_KNOWN = PriceFile()


async def import_candles(
    session: AsyncSession,
    asset: str,
    interval_seconds: int,
    rows: Iterable[Candle | RefusedRow],
    progress: Callable[[int], None] = lambda candles: None,
    file: PriceFile = NOTHING_KNOWN,
) -> PriceImport:
    """Store the candles of a file, then reopen the asset's forecasts that were given up without a price. Commits both.

    A candle that is on record stays as it is, unless it is provisional or ``file.replace`` asks for the file's. The
    last candle is provisional where the file was written before it ended, or nobody knows when. Raises NotAcceptable,
    and stores nothing, where the file is damaged, and where most of it is refused or contradicts what is on record:
    another asset or interval was meant.
    """
    # The whole file at once: half of one would look as if the other half did not exist.
    async with session.begin():
        report = await store_candles(session, asset, interval_seconds, rows, progress, file)
    async with session.begin():
        report.reopened = await store.prices.reopen(session, [asset])
    return report


async def store_candles(
    session: AsyncSession,
    asset: str,
    interval_seconds: int,
    rows: Iterable[Candle | RefusedRow],
    progress: Callable[[int], None],
    file: PriceFile,
) -> PriceImport:
    """What :func:`import_candles` does first, in the caller's transaction."""
    report = PriceImport(asset=asset, interval_seconds=interval_seconds)
    read = _FileRead(interval_seconds)
    series = await store.price_imports.begin(session, asset, interval_seconds, file.name, file.written_at)
    differing, final, rest = 0, list[datetime](), read.all_but_the_newest(rows)

    async def add(candles: list[Candle], provisional: bool = False) -> None:
        nonlocal differing
        given = [_row(one, series, provisional) for one in candles]
        added = await store.prices.add(session, given, replace=file.replace)
        report.imported += added.new
        report.replaced += added.replaced
        report.already_recorded += len(candles) - added.new - added.replaced - len(added.differing)
        report.rejected += [
            UnacceptableCandle(
                line=None,
                reason=f"the candle that ended {end:%Y-%m-%d %H:%M} UTC is on record with other prices: "
                "--replace takes the file's",
            )
            for end in added.differing
        ]
        differing += len(added.differing)
        final.extend(added.final)
        progress(report.imported + report.already_recorded + report.replaced)

    try:
        while batch := list(islice(rest, CANDLES_A_STATEMENT)):
            report.rejected += [
                UnacceptableCandle(line=row.line, reason=row.reason) for row in batch if isinstance(row, RefusedRow)
            ]
            await add([row for row in batch if isinstance(row, Candle)])
        if read.newest is not None:
            end = read.end(read.newest)
            provisional = file.written_at is None or file.written_at < end
            await add([read.newest], provisional)
            report.provisional = end if provisional else None
    except NotCandles as error:
        seen = report.imported + report.already_recorded + report.replaced + len(report.rejected)
        after = f" ({seen} rows were read)" if seen else ""
        raise NotAcceptable(f"Nothing of the file was stored{after}: {error}.") from None
    if differing > report.already_recorded + report.replaced:
        raise NotAcceptable(
            f"Nothing was imported: of {report.already_recorded + report.replaced + differing} candles that are on "
            f"record, {differing} have other prices there. Is this {asset}, and the right interval? If what is on "
            "record is wrong, --replace takes the file's prices."
        )
    if len(report.rejected) - differing > report.imported + report.already_recorded + report.replaced:
        first = report.rejected[0]
        raise NotAcceptable(
            f"Nothing was imported: {len(report.rejected)} of the lines are no such candles. Is the interval right? "
            f"Line {first.line}: {first.reason}"
        )
    counts = {name: getattr(report, name) for name in ("imported", "already_recorded", "replaced")}
    counts["rejected"] = len(report.rejected)
    await store.price_imports.finish(session, series, counts, read.span, read.gaps(), read.refused())
    if final:
        why = f"{len(final)} candles of {asset} were replaced by import {series.import_id}"
        report.affected = await _mark(session, asset, {interval_seconds: final}, why)
        payload: dict[str, Any] = {
            "asset": asset,
            "interval_seconds": interval_seconds,
            "replaced": len(final),
            "first_end": min(final),
            "last_end": max(final),
            "affected": report.affected,
            "file": file.name,
        }
        await store.events.append(session, (EventType.prices_replaced, str(series.import_id), payload))
    return report


async def _mark(session: AsyncSession, asset: str, ends: dict[int, list[datetime]], why: str) -> int:
    # A resolution under way may have read the old candles: this waits until it has written what it computed from them.
    await store.resolution.lock(session)
    return sum([await store.corrections.mark(session, asset, seconds, of, why) for seconds, of in ends.items()])


class _FileRead:
    """What a file of candles says beside them: its newest one, its holes, and where rows of it were refused."""

    def __init__(self, interval_seconds: int) -> None:
        self.newest: Candle | None = None
        self._step = timedelta(seconds=interval_seconds)
        self._slots = array("q")  # of candles, in intervals since 1970: 8 bytes each
        self._refused: set[tuple[datetime, datetime]] = set()
        self._last: datetime | None = None
        self._unplaced: tuple[datetime | None] | None = None  # a row without a time, after this end
        self._directions: set[bool] = set()
        self._without_a_time = False

    def all_but_the_newest(self, rows: Iterable[Candle | RefusedRow]) -> Iterator[Candle | RefusedRow]:
        """The rows as they come; the newest candle is held back until the end, as only then it is known to be that."""
        for row in rows:
            if isinstance(row, RefusedRow):
                if row.start is None:
                    self._without_a_time = True
                    self._unplaced = self._unplaced or (self._last,)
                else:
                    end = row.start + self._step
                    self._refused.add((end, end))
                    self._pass(end)
                yield row
                continue
            self._pass(self.end(row))
            self._slots.append(self._slot(self.end(row)))
            held, self.newest = self.newest, row
            if held is not None:
                self.newest = max(held, row, key=lambda one: one.start)
                yield min(held, row, key=lambda one: one.start)

    def end(self, candle: Candle) -> datetime:
        return candle.start + self._step

    @property
    def span(self) -> tuple[datetime, datetime] | None:
        """Ends of the first and the last candle."""
        return (self._instant(min(self._slots)), self._instant(max(self._slots))) if self._slots else None

    def gaps(self) -> list[tuple[datetime, datetime]]:
        """(end, next end) of candles of the file that do not follow each other, where the hole is at most a day."""
        slots = np.sort(np.array(self._slots, dtype=np.int64))
        apart = np.diff(slots)
        holes = np.flatnonzero((apart > 1) & (apart <= LONGEST_GAP // self._step))
        return [(self._instant(int(slots[i])), self._instant(int(slots[i + 1]))) for i in holes]

    def refused(self) -> list[tuple[datetime, datetime]]:
        """Where rows were refused: an instant twice, or the time between the neighbours of one that has none itself."""
        if self._unplaced is not None:
            self._place(None)
        if self._without_a_time and len(self._directions) > 1 and self.span:
            # The file is in no order: such a row may belong anywhere in it.
            self._refused.add((self.span[0], self.span[1]))
        return sorted(self._refused)

    def _pass(self, end: datetime) -> None:
        if self._last is not None and end != self._last:
            self._directions.add(end > self._last)
        if self._unplaced is not None:
            self._place(end)
        self._last = end

    def _place(self, after: datetime | None) -> None:
        assert self._unplaced is not None
        (before,), self._unplaced = self._unplaced, None
        known = [end for end in (before, after) if end is not None]
        if known:
            first, last = min(known), max(known)
            alone = len(known) == 1
            self._refused.add((first - LONGEST_GAP, last + LONGEST_GAP) if alone else (first, last))

    def _slot(self, end: datetime) -> int:
        # Candles may begin off the round hour: what counts is how far apart they are.
        return (end - _EPOCH) // self._step

    def _instant(self, slot: int) -> datetime:
        offset = (self.end(self.newest) - _EPOCH) % self._step if self.newest else timedelta(0)
        return _EPOCH + slot * self._step + offset


def _row(candle: Candle, series: ImportedSeries, provisional: bool) -> dict[str, Any]:
    return {
        "asset": series.asset,
        "interval_seconds": series.interval_seconds,
        "ends_at": candle.start + timedelta(seconds=series.interval_seconds),
        "open": candle.open,
        "high": candle.high,
        "low": candle.low,
        "close": candle.close,
        "volume": candle.volume,
        "source": "import",
        "import_id": series.import_id,
        "provisional": provisional,
    }


async def delete(
    session: AsyncSession, asset: str, from_at: datetime, to_at: datetime, *, interval_seconds: int | None = None
) -> PricesDeleted:
    """Delete an asset's candles that lie within a time, of one interval or (None) all, and record it. Commits.

    Outcomes that were computed from them are marked, not changed. Raises NotOnRecord where there is no such candle.
    """
    async with session.begin():
        ends = await store.prices.delete(session, asset, interval_seconds, from_at, to_at)
        count = sum(map(len, ends.values()))
        if not count:
            raise NotOnRecord(
                f"No candle of {asset} lies between {from_at:%Y-%m-%d %H:%M} and {to_at:%Y-%m-%d %H:%M} UTC: "
                "'closeloop prices list' shows what there is."
            )
        affected = await _mark(session, asset, ends, f"{count} candles of {asset} were deleted")
        now = datetime.now(UTC)
        payload = {
            "asset": asset,
            "interval_seconds": interval_seconds,
            "from_at": from_at,
            "to_at": to_at,
            "deleted": count,
            "affected": affected,
        }
        await store.events.append(session, (EventType.prices_deleted, f"{asset}/{now.isoformat()}", payload))
    return PricesDeleted(asset=asset, deleted=count, affected=affected)


async def failing(session: AsyncSession, *, last: int | None = None, before: str | None = None) -> list[SourceFailure]:
    """Assets that the price source failed for the last time, by name: at most the ``last`` before ``before``."""
    return await store.price_source.failing(session, last, before)


async def listing(session: AsyncSession, *, last: int | None = None, before: str | None = None) -> list[PriceSeries]:
    """Series of candles on record, by asset and interval: at most the ``last`` before the series ``before``.

    Raises NotOnRecord.
    """
    if before is not None and before not in {one.id for one in await store.prices.series(session)}:
        raise NotOnRecord(f"There are no prices {before}: 'closeloop prices list --json' names them by their id.")
    return await store.prices.series(session, last, before)
