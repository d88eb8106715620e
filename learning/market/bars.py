"""Bars of prices: what is accepted of them, what is repaired, and which are spikes (docs/algorithms.md, section 13).

Everything here is causal: what is said of a bar depends on bars before it alone, so that a bar that comes live is
treated as the same bar in a replay is. The memory between two calls is a :class:`SpikeCarry`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars of one series, arrays (n,): ``start`` in whole seconds since 1970 (UTC), prices, and ``volume`` in the quote
    currency."""

    start: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.start), len(self.open), len(self.high), len(self.low), len(self.close), len(self.volume)}
        if len(lengths) > 1:
            raise ValueError(f"arrays of one length are needed, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, at: slice | Ints | Bools) -> "Bars":
        return Bars(self.start[at], self.open[at], self.high[at], self.low[at], self.close[at], self.volume[at])

    @classmethod
    def of(cls, rows: Iterable[tuple[int, float, float, float, float, float]]) -> Self:
        """Of rows (start, open, high, low, close, volume)."""
        listed = list(rows)
        columns = zip(*listed, strict=True) if listed else ((),) * 6
        start, *numbers = columns
        return cls(np.array(start, np.int64), *(np.array(each, np.float64) for each in numbers))

    @classmethod
    def joined(cls, parts: Iterable["Bars"]) -> Self:
        """Of parts, one after the other."""
        listed = list(parts)
        if len(listed) == 1:
            return cls(*(getattr(listed[0], each.name) for each in fields(cls)))
        listed = [cls.of(()), *listed]
        return cls(*(np.concatenate([getattr(part, each.name) for part in listed]) for each in fields(cls)))


@dataclass(frozen=True)
class Counters:
    """How many bars were refused (the first four), mended, replaced by a later one of the same time, or dropped."""

    off_grid: int = 0
    unfinished: int = 0
    not_positive: int = 0
    high_below_low: int = 0
    repaired: int = 0
    duplicates: int = 0
    spikes: int = 0
    wicks: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class SpikeCarry:
    """What is remembered from one call to the next, plain values: ``start`` of the newest bar seen and ``close`` of the
    newest one accepted; ``dropped``: the close of the newest bar seen, where that was dropped.

    After a bar that was accepted it is ``SpikeCarry(bar.start, bar.close)``: so a series can be taken up again at any
    bar of it that is on record.
    """

    start: int | None = None
    close: float | None = None
    dropped: float | None = None


@dataclass(frozen=True)
class Accepted:
    """``bars`` that were accepted, by start, each start once; what happened to the others; and the carry after them."""

    bars: Bars
    counters: Counters
    carry: SpikeCarry


def accept(received: Bars, seconds: int, limit: float, now: int, carry: SpikeCarry | None = None) -> Accepted:
    """Accept the bars of a series that were ``received`` (in that order), of ``seconds`` each, as of ``now``.

    Refused: those off the grid, those that have not ended, those with a price that is not finite or not positive, and
    those whose high is below their low. Mended: an open or close outside [low, high] widens that; a volume that is
    negative or not finite becomes 0. Of several bars of one start the last received counts.

    A close further from the last accepted one than ``limit`` (log return) is a spike: the bar is dropped, unless the
    bar before it was dropped and its close is within ``limit`` of that one's. Afterwards high and low reach no further
    than ``limit`` beyond open and close.

    Raises ValueError for bars that are not newer than the carry's: start again from a carry before them.
    """
    carry = carry or SpikeCarry()
    if len(received) == 1 and (one := _only(received, seconds, limit, now, carry)):
        return one
    valid, refused = _valid(received, seconds, now)
    bars, repaired = _repaired(received[valid])
    bars, duplicates = _last_of_each(bars)
    if len(bars) and carry.start is not None and bars.start[0] <= carry.start:
        raise ValueError(f"bar {bars.start[0]} is not after {carry.start}: start again from a carry before it")
    kept, carry = _without_spikes(bars, limit, carry)
    accepted, wicks = _cut(bars[kept], limit)
    counters = Counters(*refused, repaired, duplicates, len(bars) - len(accepted), wicks)
    return Accepted(accepted, counters, carry)


def _only(bars: Bars, seconds: int, limit: float, now: int, carry: SpikeCarry) -> Accepted | None:
    """The same of one bar with which nothing is wrong, as they come live, several times as fast; else None."""
    (start,), (open_,), (high,), (low,), (close,), (volume,) = (
        each.tolist() for each in (bars.start, bars.open, bars.high, bars.low, bars.close, bars.volume)
    )
    factor, last = math.exp(limit), carry.close
    sound = (
        start % seconds == 0
        and start + seconds <= now
        and 0 < low <= open_ <= high < math.inf
        and low <= close <= high
        and 0 <= volume < math.inf
        and (carry.start is None or start > carry.start)
        and (last is None or not _far(close, last, factor))
        and high <= max(open_, close) * factor
        and low >= min(open_, close) / factor
    )
    return Accepted(bars, Counters(), SpikeCarry(start, close)) if sound else None


def _far(close: float, from_: float, factor: float) -> bool:
    # Products, not logarithms: the same bits for one bar and for a million.
    return close > from_ * factor or close * factor < from_


def _valid(bars: Bars, seconds: int, now: int) -> tuple[Bools, tuple[int, int, int, int]]:
    """Which bars are taken, and how many are refused for each reason; a bar is refused for the first that holds."""
    prices = np.array([bars.open, bars.high, bars.low, bars.close])
    with np.errstate(invalid="ignore"):
        reasons = (
            bars.start % seconds != 0,
            bars.start + seconds > now,
            ~(np.isfinite(prices) & (prices > 0)).all(axis=0),
            bars.high < bars.low,
        )
    first = np.where(np.any(reasons, axis=0), np.argmax(reasons, axis=0), len(reasons))
    counts = np.bincount(first, minlength=len(reasons) + 1).tolist()
    return first == len(reasons), (counts[0], counts[1], counts[2], counts[3])


def _repaired(bars: Bars) -> tuple[Bars, int]:
    high = np.maximum(bars.high, np.maximum(bars.open, bars.close))
    low = np.minimum(bars.low, np.minimum(bars.open, bars.close))
    sound = np.isfinite(bars.volume) & (bars.volume >= 0)
    wrong = (high != bars.high) | (low != bars.low) | ~sound
    return Bars(bars.start, bars.open, high, low, bars.close, np.where(sound, bars.volume, 0.0)), int(wrong.sum())


def _last_of_each(bars: Bars) -> tuple[Bars, int]:
    """By start; of several of one start the last."""
    order = np.argsort(bars.start, kind="stable")
    start = bars.start[order]
    last = np.append(start[1:] != start[:-1], True)[: len(start)]
    return bars[order[last]], len(bars) - int(last.sum())


def _without_spikes(bars: Bars, limit: float, carry: SpikeCarry) -> tuple[Bools, SpikeCarry]:
    """Which bars are used, and what is remembered of them.

    Bars are compared with their neighbours at once; one by one only where one was dropped.
    """
    n = len(bars)
    if not n:
        return np.zeros(0, np.bool_), carry
    factor = math.exp(limit)
    kept = np.ones(n, np.bool_)
    last, dropped = carry.close, carry.dropped
    at = 0
    before, after = bars.close[:-1], bars.close[1:]
    jumps = np.append(np.flatnonzero((after > before * factor) | (after * factor < before)) + 1, n)
    while at < n:
        close = float(bars.close[at])
        if last is None or not _far(close, last, factor) or (dropped is not None and not _far(close, dropped, factor)):
            # Accepted, and so are all after it up to the next that is far from the one before it.
            at = int(jumps[np.searchsorted(jumps, at, side="right")])
            last, dropped = float(bars.close[at - 1]), None
        else:
            kept[at] = False
            dropped = close
            at += 1
    return kept, SpikeCarry(int(bars.start[-1]), last, dropped)


def _cut(bars: Bars, limit: float) -> tuple[Bars, int]:
    factor = math.exp(limit)
    with np.errstate(over="ignore"):
        high = np.minimum(bars.high, np.maximum(bars.open, bars.close) * factor)
    low = np.maximum(bars.low, np.minimum(bars.open, bars.close) / factor)
    cut = (high != bars.high) | (low != bars.low)
    return Bars(bars.start, bars.open, high, low, bars.close, bars.volume), int(cut.sum())
