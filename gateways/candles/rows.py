"""A candle, and a row of a file that is none."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_NUMBER_CHARACTERS = 100


class NotCandles(Exception):
    """The file holds no such candles, or is damaged from here on; the message says why."""


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
    """A row of the file that is no candle, and why. ``start``: of the candle that it would be, where that is known.

    ``line``: of a text file; the number of the row, from 1, in others. A gap in the series beside such a row is not
    known to be real.
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


def as_written(start: datetime, open_: str, high: str, low: str, close: str, volume: str | None) -> Candle:
    """A candle whose numbers are what was written, whatever they say: negative ones too, and a high below the low.

    A volume that is no number is NaN. Raises ValueError where a price is no finite number.
    """
    try:
        traded = None if volume is None else _number("volume", volume)
    except ValueError:
        traded = Decimal("NaN")
    return Candle(
        start, _number("open", open_), _number("high", high), _number("low", low), _number("close", close), traded
    )


def volume_or_none(value: str) -> str | None:
    """The volume as written; None where it is no number: empty, NaN, "-", or -1 for what a broker does not know."""
    try:
        return value if _number("volume", value) >= 0 else None
    except ValueError:
        return None


def _price(name: str, value: str) -> Decimal:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: must be positive")
    return number


def _number(name: str, value: str) -> Decimal:
    if len(value) > _MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(value):
        if "," in value and len(value) <= _MAX_NUMBER_CHARACTERS:
            raise ValueError(f"{name}: {value} has a comma; write digits and at most one point, such as 1234.5")
        raise ValueError(f"{name}: must be a finite number of at most {_MAX_NUMBER_CHARACTERS} characters")
    number = Decimal(value)
    if number and not -60 <= number.adjusted() <= 30:
        raise ValueError(f"{name}: must be 0 or between 1e-60 and 1e31 in size")
    return number if number else Decimal(0)
