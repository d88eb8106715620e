"""Composites: one series of several components, as ALT and the buckets are (docs/algorithms.md, section 13).

A component becomes a member with its first bar and leaves when it has been silent for too long or its membership ends;
coming back it is new. What a member did counts from its reference price: its close where it entered or where the index
started, then its close in the newest bar of the index that it had part in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from closeloop.learning.market.bars import Bars, Bools, Floats, Ints
from closeloop.models.market_policy import MarketPolicy

INDEX_START = 100.0
"""What an index is in its first minute."""
FOR_EVER = 2**62
"""End (s) of a membership that has none."""

Spans = Sequence[tuple[int, int]]
"""When a component belongs to the composite: from a second on, until before another."""


@dataclass(frozen=True)
class Member:
    """Plain values: ``reference`` price, ``close`` of the newest bar and when that ``start``ed."""

    reference: float
    close: float
    start: int


@dataclass(frozen=True)
class CompositeCarry:
    """What is remembered between two calls, plain values: up to which second bars were taken, what the index is (None
    before it starts), and the members by name."""

    until: int | None = None
    index: float | None = None
    members: Mapping[str, Member] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Composite:
    """``bars`` of the composite, of each how many components it has a price of, and the carry after them."""

    bars: Bars
    component_count: Ints
    carry: CompositeCarry


def composite(
    components: Mapping[str, Bars],
    policy: MarketPolicy,
    carry: CompositeCarry | None = None,
    memberships: Mapping[str, Spans] | None = None,
) -> Composite:
    """The next bars of a composite from the accepted bars of its ``components``, volumes in the quote currency.

    ``memberships``: when each component belongs to it; a component that is not named never does. None: all always do.
    The result for a minute depends on bars up to that minute alone, and is the same, bit for bit, in whatever parts of
    time the bars are given.

    Raises ValueError for a bar that is not after those taken before: start again from a carry before it.
    """
    carry = carry or CompositeCarry()
    taken = {
        name: belonging(components[name], None if memberships is None else memberships.get(name, ()))
        for name in sorted(components)
    }
    starts = np.unique(np.concatenate([np.empty(0, np.int64), *(bars.start for bars in taken.values())]))
    if carry.until is not None and len(starts) and starts[0] <= carry.until:
        raise ValueError(f"bar {starts[0]} is not after {carry.until}: start again from a carry before it")
    stale = round(policy.member_stale_hours * 3600)
    # Members that are silent from now on still count until they are stale.
    names = sorted({*taken, *carry.members})
    columns = [
        _Column(
            taken.get(name, Bars.of(())),
            carry.members.get(name),
            starts,
            stale,
            None if memberships is None else _merged(memberships.get(name, ())),
        )
        for name in names
    ]
    made = _mean_of_prices if policy.composite == "mean_of_prices" else _log_index
    bars, count, index = made(columns, starts, carry.index, policy.min_components)
    until = carry.until if not len(starts) else int(starts[-1])
    members = {
        name: member
        for name, column in zip(names, columns, strict=True)
        if (member := column.member()) and (until is None or until - member.start <= stale)
    }
    return Composite(bars, count, CompositeCarry(until, index, members))


class _Column:
    """A component over the minutes ``starts`` of one call, arrays (minutes,): ``has`` it a bar, was it a member
    ``before`` the minute, and does it ``enter`` in it; ``close`` and ``open`` at the ``rows`` where it has bars."""

    def __init__(self, bars: Bars, member: Member | None, starts: Ints, stale: int, spans: Spans | None) -> None:
        self.bars, self._member = bars, member
        self.rows = np.searchsorted(starts, bars.start)
        self.has = np.zeros(len(starts), np.bool_)
        self.has[self.rows] = True
        own = bars.start if member is None else np.append(np.int64(member.start), bars.start)
        newest = np.searchsorted(own, starts, side="left") - 1  # of its own bars before the minute
        last = own[np.maximum(newest, 0)] if len(own) else starts
        self.before: Bools = (newest >= 0) & (starts - last <= stale)
        if spans is not None:
            span = _span(starts, spans)
            self.before &= (span >= 0) & (span == _span(last, spans))
        self.enters = self.has & ~self.before
        self.newest = newest - (member is not None)  # -1: the bar that the carry remembers
        self._references: Floats | None = None

    def reference_at_bars(self, booked: Bools) -> Floats:
        """Reference price before each of its bars; ``booked`` (minutes,): what it did until then counts, as there is a
        bar of the index, or never will, as there is no index yet."""
        sets = self.enters[self.rows] | booked[self.rows]
        first = math.nan if self._member is None else self._member.reference
        newest = np.maximum.accumulate(np.where(sets, np.arange(len(sets)), -1))
        of_bar = np.append(first, np.where(newest < 0, first, self.bars.close[np.maximum(newest, 0)]))
        self._references = of_bar
        return of_bar[:-1]

    def close_before(self) -> Floats:
        """Its newest close before each minute; NaN where there is none."""
        first = math.nan if self._member is None else self._member.close
        return np.append(self.bars.close, first)[self.newest]

    def member(self) -> Member | None:
        """What is remembered of it; None where it never had a bar."""
        if not len(self.bars):
            return self._member
        reference = self.bars.close[-1] if self._references is None else self._references[-1]
        return Member(float(reference), float(self.bars.close[-1]), int(self.bars.start[-1]))


def _log_index(
    columns: Sequence[_Column], starts: Ints, index: float | None, least: int
) -> tuple[Bars, Ints, float | None]:
    """Previous close x exp(mean log return of the members), from 100 in the first minute with enough members."""
    before, taking = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    after = np.zeros(len(starts), np.int64)
    for column in columns:
        before += column.before
        taking += column.before & column.has
        after += column.before | column.enters
    booked = (before >= least) & (taking > 0)
    first = 0
    if index is None:
        enough = np.flatnonzero(after >= least)
        first = int(enough[0]) if len(enough) else len(starts)
        booked[:first] = False
        booked[first : first + 1] = True
    settled = booked | (np.arange(len(starts)) < first)
    opens, closes, volume = np.zeros(len(starts)), np.zeros(len(starts)), np.zeros(len(starts))
    count = np.zeros(len(starts), np.int64)
    for column in columns:
        reference = column.reference_at_bars(settled)
        counts = (booked & column.before)[column.rows]
        if index is None:
            counts |= column.rows == first  # the first bar is of every component with a bar
        rows = column.rows[counts]
        count[rows] += 1
        volume[column.rows] += column.bars.volume
        moved = counts if index is not None else counts & (column.rows != first)
        rows, moved_from = column.rows[moved], reference[moved]
        opens[rows] += np.log(column.bars.open[moved] / moved_from)
        closes[rows] += np.log(column.bars.close[moved] / moved_from)
    rows = np.flatnonzero(booked)
    if not len(rows):
        return Bars.of(()), count[rows], index
    n = np.maximum(before[rows], 1)
    close = np.cumprod(np.append(INDEX_START if index is None else index, np.exp(closes[rows] / n)))
    open_ = close[:-1] * np.exp(opens[rows] / n)
    return _bars(starts[rows], open_, close[1:], volume[rows]), count[rows], float(close[-1])


def _mean_of_prices(
    columns: Sequence[_Column], starts: Ints, index: float | None, least: int
) -> tuple[Bars, Ints, float | None]:
    """The mean of the members' newest prices, as closeloop was first specified."""
    opens, closes, volume = np.zeros(len(starts)), np.zeros(len(starts)), np.zeros(len(starts))
    count, after = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    for column in columns:
        silent = np.where(column.before & ~column.has, column.close_before(), 0.0)
        opens += silent
        closes += silent
        opens[column.rows] += column.bars.open
        closes[column.rows] += column.bars.close
        volume[column.rows] += column.bars.volume
        count += column.has
        after += column.before | column.enters
    rows = np.flatnonzero(after >= least)
    n = np.maximum(after[rows], 1)
    close = closes[rows] / n
    index = float(close[-1]) if len(rows) else index
    return _bars(starts[rows], opens[rows] / n, close, volume[rows]), count[rows], index


def _bars(start: Ints, open_: Floats, close: Floats, volume: Floats) -> Bars:
    # The highs and lows of members do not come at one time: those of a composite are not known.
    return Bars(start, open_, np.maximum(open_, close), np.minimum(open_, close), close, volume)


def belonging(bars: Bars, spans: Spans | None) -> Bars:
    """The bars that start while their component belongs."""
    return bars if spans is None else bars[_span(bars.start, _merged(spans)) >= 0]


def _span(at: Ints, spans: Spans) -> Ints:
    """Which of the spans each second is in; -1: in none."""
    if len(at) == 1:  # a minute that comes live
        second = int(at[0])
        within = (place for place, (start, end) in enumerate(spans) if start <= second < end)
        return np.array((next(within, -1),), np.int64)
    if not spans:
        return np.full(len(at), -1, np.int64)
    place = np.searchsorted(np.array([start for start, _ in spans], np.int64), at, side="right") - 1
    ends = np.array([end for _, end in spans], np.int64)
    return np.where((place >= 0) & (at < ends[np.maximum(place, 0)]), place, -1)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans by start; those that touch are one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
