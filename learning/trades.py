"""Trades of a group as columns: what lessons are mined from."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.scope import SIGNATURE_DIMENSIONS, regime_signature

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trade:
    """A closed trade within a group.

    ``rr`` in R (trades without R are left out by the caller), ``entered_at`` in seconds since 1970 (UTC),
    ``held_hours`` from entry to exit, ``scope`` as :func:`closeloop.learning.scope.flatten` gives it.
    """

    trade_id: str
    symbol: str
    rr: float
    entered_at: float
    held_hours: float
    scope: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A dimension: ``codes`` (n,) int32 into the sorted ``values``; -1 where a trade has none."""

    codes: NDArray[np.int32]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The trades of one (pattern_key, action_category), by trade id: the same trades make the same arrays, whatever
    order they came in. All arrays are (n,). Made by :func:`group_of`."""

    pattern_key: str
    action_category: str
    trade_ids: tuple[str, ...]
    rr: Floats
    entered_at: Floats
    held_hours: Floats
    symbols: Column
    columns: Mapping[str, Column]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the group."""
        return self.pattern_key, self.action_category

    @property
    def n(self) -> int:
        """Number of trades."""
        return len(self.trade_ids)

    @cached_property
    def days(self) -> Ints:
        """UTC day of entry, counted from 1970 (n,)."""
        return np.floor(self.entered_at / 86_400.0).astype(np.int64)

    @cached_property
    def median_hours(self) -> float:
        """Median of the hours held."""
        return float(np.median(self.held_hours))

    @cached_property
    def variance(self) -> float:
        """Variance of rr (n - 1); 0 of a single trade."""
        return float(self.rr.var(ddof=1)) if self.n > 1 else 0.0

    @cached_property
    def signatures(self) -> Column:
        """The regime signature of every trade."""
        present = [(name, self.columns[name]) for name in SIGNATURE_DIMENSIONS if name in self.columns]
        mixed = np.zeros(self.n, np.int64)
        for _, column in present:
            mixed = mixed * (len(column.values) + 1) + column.codes + 1
        _, first, codes = np.unique(mixed, return_index=True, return_inverse=True)
        named = [
            regime_signature({name: each.values[each.codes[row]] for name, each in present if each.codes[row] >= 0})
            for row in first
        ]
        values = sorted(set(named))
        rank = np.array([values.index(signature) for signature in named], np.int32)
        return Column(rank[codes], tuple(values))

    def rows(self, conditions: Mapping[str, str]) -> Ints:
        """Indices of the trades that satisfy every condition, ascending: those of a lesson."""
        chosen = np.ones(self.n, np.bool_)
        for dimension, value in conditions.items():
            column = self.columns.get(dimension)
            if column is None or value not in column.values:
                return np.empty(0, np.int64)
            chosen &= column.codes == column.values.index(value)
        return np.flatnonzero(chosen)


@dataclass
class _Growing:
    """A column while trades are read: the rows that have a value, and a number for each value, in order of arrival."""

    rows: "array[int]" = field(default_factory=lambda: array("q"))
    codes: "array[int]" = field(default_factory=lambda: array("i"))
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, row: int, value: str) -> None:
        self.rows.append(row)
        self.codes.append(self.numbers.setdefault(value, len(self.numbers)))

    def column(self, n: int) -> Column:
        values = sorted(self.numbers)
        rank = np.empty(len(values), np.int32)
        for place, value in enumerate(values):
            rank[self.numbers[value]] = place
        codes = np.full(n, -1, np.int32)
        codes[np.asarray(self.rows, np.int64)] = rank[np.asarray(self.codes, np.int64)]
        return Column(codes, tuple(values))


def group_of(pattern_key: str, action_category: str, trades: Iterable[Trade]) -> Group:
    """Collect trades, read once, into a group. A trade id that comes several times counts once."""
    ids: list[str] = []
    rr, entered_at, held_hours = array("d"), array("d"), array("d")
    symbols = _Growing()
    growing: dict[str, _Growing] = {}
    for row, trade in enumerate(trades):
        ids.append(trade.trade_id)
        rr.append(trade.rr)
        entered_at.append(trade.entered_at)
        held_hours.append(trade.held_hours)
        symbols.add(row, trade.symbol)
        for dimension, value in trade.scope.items():
            growing.setdefault(dimension, _Growing()).add(row, value)
    n = len(ids)
    numbers = [np.asarray(values, np.float64) for values in (entered_at, rr, held_hours)]
    columns = {dimension: growing[dimension].column(n) for dimension in sorted(growing)}
    symbol = symbols.column(n)
    order = np.array(sorted(range(n), key=ids.__getitem__), np.int64)
    if len(set(ids)) < n:
        # Of the rows of one trade id the smallest stays: the same one, in whatever order the rows arrive.
        place: dict[str, int] = {}
        rank = np.array([place.setdefault(ids[row], len(place)) for row in order], np.int64)[np.argsort(order)]
        codes = [column.codes for column in columns.values()]
        keys: list[NDArray[Any]] = [*codes, symbol.codes, *numbers, rank]
        order = np.lexsort(keys)
        order = order[np.flatnonzero(np.diff(rank[order], prepend=-1))]
    return Group(
        pattern_key,
        action_category,
        tuple(ids[row] for row in order),
        numbers[1][order],
        numbers[0][order],
        numbers[2][order],
        Column(symbol.codes[order], symbol.values),
        {dimension: Column(column.codes[order], column.values) for dimension, column in columns.items()},
    )
