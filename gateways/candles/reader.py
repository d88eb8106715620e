"""Every candle of a file, checked: what ``closeloop prices import`` reads."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from itertools import chain, islice
from typing import BinaryIO

from closeloop.gateways.candles.checks import RoundTheClock, Seen, Series, Spacing, same_asset
from closeloop.gateways.candles.columns import HEAD_ROWS, Columns, Timestamps, duration, find_header
from closeloop.gateways.candles.files import read_table
from closeloop.gateways.candles.rows import Candle, NotCandles, RefusedRow

# A file with so many refused rows, more than are candles, is not read on: they are held until the end of an import.
_TOO_MANY_REFUSED = 10_000
# Candles that come twice with other prices, for each one such: more, and the file is of several assets.
_CANDLES_FOR_A_CONTRADICTION = 4


def read_candles(
    file: BinaryIO,
    interval_seconds: int,
    now: datetime,
    *,
    asset: str | None = None,
    symbol: str | None = None,
    timestamps: Timestamps | None = None,
    timezone: tzinfo | None = None,
    written: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Candle | RefusedRow]:
    """Every row of a file of candles, in its order, each instant once: a candle, or why it is none.

    A row that repeats an earlier one is skipped; one that contradicts it is refused, as is a candle that has not ended
    by ``now``. ``symbol`` chooses one series of several; without it, a series that the file names otherwise than
    ``asset`` is refused. ``timestamps``: which moment of a candle its time is, the start if neither it nor the file
    says so. ``timezone``: whose times those without an offset are. ``tell``: takes what was assumed of the file. Memory
    grows by some bytes a candle.

    ``written``: every candle as it is written, for who judges them: with prices that cannot be, not ended yet, or of an
    instant that was there already. Only rows that cannot be read are refused.

    Raises NotCandles: also at the end, after all rows, if only the whole shows that they are no such candles.
    """
    table = read_table(file)
    first = list(islice(table.rows, HEAD_ROWS))
    header = find_header(
        [cells for _, cells in first if isinstance(cells, list)],
        lambda name: symbol is not None and same_asset(name, symbol),
        timezone,
    )
    past, body = header.rows, first
    while past:
        past -= isinstance(body[0][1], list)
        body = body[1:]
    samples = [cells for _, cells in body if isinstance(cells, list)]
    interval = timedelta(seconds=interval_seconds)
    columns = Columns(header, samples, interval, timestamps, timezone)
    series = Series(
        columns.identity, table.told | header.told, asset, symbol, interval_seconds, chosen=header.has_a_symbol_chosen
    )
    spacing = Spacing(interval_seconds, _offset(columns, samples, interval_seconds))
    seen, latest, offset = Seen(), now.timestamp() - interval_seconds, spacing.offset
    candles = refused = contradictions = 0
    identified = bool(columns.identity)
    clock = RoundTheClock() if columns.taken_for_utc else None
    if clock:
        tell(
            f"its {columns.time} have no UTC offset and were read as UTC; if they are another's, say so with --timezone"
        )
    for number, cells in chain(body, table.rows):
        start = None
        try:
            if isinstance(cells, str):
                raise ValueError(cells)
            columns.check(cells)
            if identified and not series.wants(cells):
                continue
            if header.has_a_symbol_chosen and columns.has_no_prices(cells):
                continue
            start = columns.start(cells)
            seconds = int(start.timestamp())
            if start.microsecond or not spacing.in_step(seconds):
                raise ValueError(
                    f"{columns.time}: must be a multiple of the interval ({interval_seconds} s){_after(offset)}"
                )
            if seconds > latest and not written:
                raise ValueError(f"{columns.time}: the candle has not ended")
            found = columns.candle(start, cells, written)
            try:
                new = written or seen.add((seconds - offset) // interval_seconds, found)
            except ValueError:
                contradictions += 1
                raise
        except ValueError as error:
            refused += 1
            if refused > _TOO_MANY_REFUSED and refused > candles:
                raise NotCandles(f"most of its rows are no candles; row {number}: {error}") from None
            yield RefusedRow(number, str(error), start)
        else:
            if new:
                candles += 1
                if clock:
                    clock.add(seconds)
                yield found
    series.judge()
    spacing.judge(columns.tells_the_length or series.tells_the_length)
    if contradictions * _CANDLES_FOR_A_CONTRADICTION > candles:
        raise NotCandles(f"{contradictions} of its {candles} candles are there again with other prices: of what asset?")


def _offset(columns: Columns, samples: list[list[str]], interval_seconds: int) -> int:
    """By how much most candles start after a multiple of the interval, in whole minutes: 03:45 is one for an hour's."""
    offsets: Counter[int] = Counter({0: 0})
    for cells in samples:
        try:
            columns.check(cells)
            offsets[int(columns.start(cells).timestamp()) % interval_seconds] += 1
        except ValueError:
            continue
    offset, _ = offsets.most_common(1)[0]
    if offset % 60:
        at = duration(offset) if offset >= 60 else f"{offset} s"
        raise NotCandles(
            f"its candles start {at} after a multiple of {duration(interval_seconds)}; "
            "if the times are their ends: --timestamps end"
        )
    return offset


def _after(offset: int) -> str:
    return f" after {duration(offset)}" if offset else ""
