"""Prices, by which forecasts are resolved: importing candles, and listing what is on record."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.gateways.candles import Candle, NotCandles, RefusedRow
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.prices import PriceImport, PriceSeries, UnacceptableCandle

CANDLES_A_STATEMENT = 5_000


async def import_candles(
    session: AsyncSession,
    asset: str,
    interval_seconds: int,
    rows: Iterable[Candle | RefusedRow],
    progress: Callable[[int], None] = lambda candles: None,
) -> PriceImport:
    """Store the candles of a file, then reopen the asset's forecasts that were given up without a price. Commits both.

    A candle that is on record stays as it is. Raises NotAcceptable, and stores nothing, where the file is damaged, and
    where most of it is refused or contradicts what is on record: another asset or interval was meant.
    """
    # The whole file at once: half of one would look as if the other half did not exist.
    async with session.begin():
        report = await _store(session, asset, interval_seconds, rows, progress)
    async with session.begin():
        report.reopened = await store.prices.reopen(session, [asset])
    return report


async def _store(
    session: AsyncSession,
    asset: str,
    interval_seconds: int,
    rows: Iterable[Candle | RefusedRow],
    progress: Callable[[int], None],
) -> PriceImport:
    report = PriceImport(asset=asset, interval_seconds=interval_seconds)
    differing, rest = 0, iter(rows)
    try:
        while batch := list(islice(rest, CANDLES_A_STATEMENT)):
            report.rejected += [
                UnacceptableCandle(line=row.line, reason=row.reason) for row in batch if isinstance(row, RefusedRow)
            ]
            candles = [row for row in batch if isinstance(row, Candle)]
            added = await store.prices.add(session, [_row(one, asset, interval_seconds) for one in candles])
            report.imported += added.new
            report.already_recorded += len(candles) - added.new - len(added.differing)
            report.rejected += [
                UnacceptableCandle(
                    line=None,
                    reason=f"the candle that ended {end:%Y-%m-%d %H:%M} UTC is on record with other prices",
                )
                for end in added.differing
            ]
            differing += len(added.differing)
            progress(report.imported + report.already_recorded)
    except NotCandles as error:
        read = report.imported + report.already_recorded + len(report.rejected)
        after = f"; nothing of it was stored after {read} rows." if read else "."
        raise NotAcceptable(f"The file holds no candles ({error}){after}") from None
    if differing > report.already_recorded:
        raise NotAcceptable(
            f"Nothing was imported: of {report.already_recorded + differing} candles that are on record, {differing} "
            f"have other prices there. Is this {asset}, and the right interval?"
        )
    if len(report.rejected) - differing > report.imported + report.already_recorded:
        first = report.rejected[0]
        raise NotAcceptable(
            f"Nothing was imported: {len(report.rejected)} of the lines are no such candles. Is the interval right? "
            f"Line {first.line}: {first.reason}"
        )
    return report


def _row(candle: Candle, asset: str, interval_seconds: int) -> dict[str, Any]:
    return {
        "asset": asset,
        "interval_seconds": interval_seconds,
        "ends_at": candle.start + timedelta(seconds=interval_seconds),
        "open": candle.open,
        "high": candle.high,
        "low": candle.low,
        "close": candle.close,
        "volume": candle.volume,
        "source": "import",
    }


async def listing(session: AsyncSession, *, last: int | None = None, before: str | None = None) -> list[PriceSeries]:
    """Series of candles on record, by asset and interval: at most the ``last`` before the series ``before``.

    Raises NotOnRecord.
    """
    if before is not None and before not in {one.id for one in await store.prices.series(session)}:
        raise NotOnRecord(f"There are no prices {before}: 'closeloop prices list --json' names them by their id.")
    return await store.prices.series(session, last, before)
