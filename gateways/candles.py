"""Candles, and the CSV files that hold them (freqtrade's and others like them), plain or gzipped."""

import csv
import gzip
import io
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import BinaryIO

MAX_LINE_BYTES = 64 * 1024
# Names of the column that says when a candle began, the preferred first.
TIME_COLUMNS = ("date", "datetime", "open time", "timestamp", "time")
PRICE_COLUMNS = ("open", "high", "low", "close")

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_NUMBER_CHARACTERS = 100
_EPOCH = re.compile(r"([0-9]{9,17})(?:\.0*)?")
# A smaller number is taken for a mistake: a day written as 20180110 would otherwise be a time of 1970.
_EARLIEST_EPOCH_SECONDS = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class NotCandles(Exception):
    """The file holds no candles, or is damaged from here on; the message says why."""


@dataclass(frozen=True, slots=True)
class Candle:
    """What was paid from ``start`` (UTC) on, for one interval. Prices are positive; the volume may be unknown."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None


@dataclass(frozen=True)
class RefusedRow:
    """A line of the file that is no candle, and why. The header is line 1. ``start``: of the candle, where it is known.

    A gap in the series beside such a row is not known to be real.
    """

    line: int
    reason: str
    start: datetime | None = None


def candle(start: datetime, open_: str, high: str, low: str, close: str, volume: str | None) -> Candle:
    """A candle from its numbers as they were written. Raises ValueError, which says what is wrong with them."""
    first, last = _price("open", open_), _price("close", close)
    highest, lowest = _price("high", high), _price("low", low)
    if not lowest <= first <= highest or not lowest <= last <= highest:
        raise ValueError("low, high: open and close must lie between them")
    traded = _number("volume", volume) if volume is not None else None
    if traded is not None and traded < 0:
        raise ValueError("volume: must not be negative")
    return Candle(start, first, highest, lowest, last, traded)


def read_candles(file: BinaryIO, interval_seconds: int, now: datetime) -> Iterator[Candle | RefusedRow]:
    """Every row of a CSV file, in its order, each instant once: a candle, or why it is none.

    A row that repeats an earlier one is skipped; one that contradicts it is refused, as is a candle that has not ended
    by ``now``. Gzip is recognised by content. Memory does not grow with the file's size, beyond some bytes a candle.
    Raises NotCandles, also after some rows if the file is damaged further on.
    """
    lines = _lines(file)
    number, header = next(lines, (1, b""))
    columns = _columns(header)
    seen, latest = _Seen(), now.timestamp() - interval_seconds
    for number, line in lines:
        if line is None:
            yield RefusedRow(number, f"the line is longer than {MAX_LINE_BYTES // 1024} KiB")
        elif line.strip():
            start = None
            try:
                cells = columns.cells(line)
                start = columns.start(cells)
                found = columns.candle(start, cells)
                seconds = int(found.start.timestamp())
                if seconds % interval_seconds or found.start.microsecond:
                    raise ValueError(f"{columns.time}: must be a multiple of the interval ({interval_seconds} s)")
                if seconds > latest:
                    raise ValueError(f"{columns.time}: the candle has not ended")
                new = seen.add(seconds // interval_seconds, found)
            except ValueError as error:
                yield RefusedRow(number, str(error), start)
            else:
                if new:
                    yield found


class _Seen:
    """Which candles were read before, by 32-bit hashes of their prices: 4 bytes a candle, a set of times takes 100."""

    _BLOCK = 64

    def __init__(self) -> None:
        self._blocks: dict[int, array[int]] = {}

    def add(self, slot: int, found: Candle) -> bool:
        """Whether the slot was empty. Raises ValueError if another candle was there."""
        # Equal decimals have equal hashes, however they are written. Zero stands for "none yet".
        mark = hash((found.open, found.high, found.low, found.close)) & 0xFFFFFFFF or 1
        block = self._blocks.get(slot // self._BLOCK)
        if block is None:
            block = self._blocks[slot // self._BLOCK] = array("I", bytes(4 * self._BLOCK))
        stored, block[slot % self._BLOCK] = block[slot % self._BLOCK], block[slot % self._BLOCK] or mark
        if stored and stored != mark:
            raise ValueError("an earlier line gives this candle other prices")
        return not stored


class _Columns:
    """Where a row has what a candle is made of."""

    def __init__(self, names: list[str]) -> None:
        self.time = next((name for name in TIME_COLUMNS if name in names), "")
        missing = [name for name in PRICE_COLUMNS if name not in names]
        if missing or not self.time:
            wanted = ", ".join(([] if self.time else ["date"]) + missing)
            raise NotCandles(f"its first line must name its columns, and names no {wanted}")
        wanted_names = (self.time, *PRICE_COLUMNS, "volume")
        if repeated := [name for name in wanted_names if names.count(name) > 1]:
            raise NotCandles(f"it has more than one column {repeated[0]}")
        self._count = len(names)
        self._time_at = names.index(self.time)
        self._at = [names.index(name) for name in PRICE_COLUMNS]
        self._volume_at = names.index("volume") if "volume" in names else None

    def cells(self, line: bytes) -> list[str]:
        """Raises ValueError."""
        try:
            row = next(csv.reader([line.decode()]))
        except UnicodeDecodeError:
            raise ValueError("the line is not UTF-8") from None
        except (csv.Error, StopIteration):
            raise ValueError("the line is not CSV") from None
        if len(row) != self._count:
            raise ValueError(f"the line has {len(row)} fields, the header {self._count}")
        return row

    def start(self, cells: list[str]) -> datetime:
        """Raises ValueError."""
        return _instant(self.time, cells[self._time_at].strip())

    def candle(self, start: datetime, cells: list[str]) -> Candle:
        """Raises ValueError."""
        first, highest, lowest, last = (cells[at].strip() for at in self._at)
        volume = cells[self._volume_at].strip() if self._volume_at is not None else ""
        return candle(start, first, highest, lowest, last, volume or None)


def _columns(header: bytes | None) -> _Columns:
    if header is None:
        raise NotCandles("it is not CSV: its first line is far too long")
    try:
        names = next(csv.reader([header.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error):
        raise NotCandles("it is not CSV: its first line is not text") from None
    return _Columns([name.strip().lower().replace("_", " ") for name in names])


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line) of each line; None for one that is too long, which is never held in memory."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    # No text begins with the first byte of gzip; a pipe may not have more than one to look at yet.
    content = gzip.GzipFile(fileobj=buffered) if buffered.peek(1)[:1] == b"\x1f" else buffered
    limit, number = MAX_LINE_BYTES + 2, 0
    try:
        while piece := content.readline(limit):
            number += 1
            line: bytes | None = piece
            while not piece.endswith(b"\n") and (piece := content.readline(limit)):
                line = None
            yield number, line
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NotCandles(f"the gzip file is damaged ({error})") from None
    finally:
        if buffered is not file:
            buffered.detach()  # or closing it would close the file of the caller


def _instant(name: str, value: str) -> datetime:
    if epoch := _EPOCH.fullmatch(value):
        number = int(epoch[1])
        unit = 1 if number < 10**11 else 10**3 if number < 10**14 else 10**6
        if number >= _EARLIEST_EPOCH_SECONDS * unit and not number % unit:
            try:
                return datetime.fromtimestamp(number // unit, UTC)
            except (OverflowError, ValueError, OSError):
                pass
        raise ValueError(f"{name}: must be whole seconds since 1970 (or milli- or microseconds), from the year 2000 on")
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{name}: must be a time such as 2018-01-11 00:00:00+00:00") from None
    if instant.tzinfo is None:
        raise ValueError(f"{name}: has no UTC offset; write 2018-01-11 00:00:00+00:00 or 2018-01-11T00:00:00Z")
    try:
        instant = instant.astimezone(UTC)
    except OverflowError:
        instant = datetime.min.replace(tzinfo=UTC)
    if instant < _EARLIEST:
        raise ValueError(f"{name}: must be between the years 1970 and 9999")
    return instant


def _price(name: str, value: str) -> Decimal:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: must be positive")
    return number


def _number(name: str, value: str) -> Decimal:
    if len(value) > _MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(value):
        raise ValueError(f"{name}: must be a finite number of at most {_MAX_NUMBER_CHARACTERS} characters")
    number = Decimal(value)
    if number and not -60 <= number.adjusted() <= 30:
        raise ValueError(f"{name}: must be 0 or between 1e-60 and 1e31 in size")
    return number if number else Decimal(0)
