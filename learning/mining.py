"""Pattern lessons: which conditions went with better or worse trades, and which of them are more than noise.

*Enumeration.* All conjunctions ``dimension = value`` with enough trades are the cells of an iceberg cube, computed
bottom up (Beyer & Ramakrishnan 1999, "Bottom-up computation of sparse and iceberg cubes"): depth first over sets of
dimensions, each a group-by of the trades, and below a conjunction with too few trades nothing is looked at, because
no refinement of it can have more (Agrawal & Srikant 1994). A group-by is a columnar count over mixed-radix codes
(count, sum, sum of squares in one ``numpy.bincount`` each), in blocks of trades that stay in the cache.

*Selection.* Stratified Welch and pooled tests, Benjamini & Hochberg (1995) over the candidates of all groups of the
run, standard errors clustered by entry day (Liang & Zeger 1986), and forward selection: what was accepted splits its
group into cells, and everything is tested again within these, so that its shadows disappear.

Trades are taken by trade id and candidates by (conditions, dimension, value): the same trades give the same lessons,
bit for bit.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.intervals import t_half_width
from closeloop.learning.scope import DIMENSIONS, SIGNATURE_DIMENSIONS, regime_signature
from closeloop.learning.significance import (
    Difference,
    Moments,
    benjamini_hochberg,
    clustered_error,
    difference_of_means,
    student_p,
)
from closeloop.models.policy import MiningPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BLOCK = 65_536  # trades whose codes, sums and squares fit into a core's cache together
_LEVEL = 0.95  # of the intervals of effects
_NO_VARIANCE = 1e-12  # share of a cell's sum of squares below which what is left of a variance is rounding


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
    def regimes(self) -> Column:
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
    """A dimension while trades are read: the rows that have it, and a number for each of its values."""

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
        # Of a trade that comes several times the least row stays: the same one in any order of arrival.
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


class Standing(StrEnum):
    """What the selection made of a lesson."""

    baseline = "baseline"
    accepted = "accepted"
    shadow = "shadow"


@dataclass(frozen=True)
class Lesson:
    """What is known of the trades that satisfy ``conditions`` (``Group.rows`` names them); all in R.

    ``n``, ``avg_rr``, ``variance`` (n - 1; None for one trade), ``win_rate`` (share of rr > 0) and ``edge_raw``
    (avg_rr - baseline) describe the trades inside. ``effect`` is the conditional difference to the trades outside with
    its 95 % interval, ``p`` and ``q`` belong to it: as at its acceptance, or, of a shadow, given everything that was
    accepted (None where nothing comparable is left). ``explained_by``: conditions of the accepted lesson of the same
    group that explains a shadow; None of a shadow that was only the luck of a few days.

    The baseline of a group has no conditions; its effect is its edge, its p that of Student's t test; it has no q.
    """

    pattern_key: str
    action_category: str
    conditions: Mapping[str, str]
    standing: Standing
    n: int
    avg_rr: float
    variance: float | None
    win_rate: float
    edge_raw: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    p: float
    q: float | None
    explained_by: Mapping[str, str] | None


@dataclass(frozen=True)
class Mined:
    """``lessons``: by group; first the baseline, then the accepted in the order of acceptance, then the shadows by
    conditions. ``candidates``: size of the family, all groups together. ``left_out``: dimensions of each group beyond
    the policy's limit (unknown ones first, then those of fewest trades)."""

    lessons: list[Lesson]
    candidates: int
    left_out: Mapping[tuple[str, str], tuple[str, ...]]


def due(trades: int, mined_with: int | None, mining: MiningPolicy) -> bool:
    """Whether a group of that many trades is to be mined (again); ``mined_with``: trades of the last time, if any.

    >>> due(109, 100, MiningPolicy()), due(110, 100, MiningPolicy())
    (False, True)
    """
    if mined_with is None:
        return True
    new = trades - mined_with
    return new > 0 and new >= mining.growth * mined_with


def compare(inside: Floats, cells: Floats, mining: MiningPolicy) -> Difference:
    """Test the difference of means within cells, of m candidates; NaN, and p = 1, where too little can be compared.

    ``inside`` (3, m, c): count, sum and sum of squares of the trades of candidate m in cell c; ``cells`` (3, c): the
    same of all trades of the cell. Cells with too few trades on a side are left out.
    """
    least, enough = mining.min_cell_trades, mining.min_trades
    n1, s1, q1 = inside
    n, s, q = cells
    n0 = n - n1
    with np.errstate(all="ignore"):
        m1, m0 = s1 / n1, (s - s1) / n0
        # What is left of squares of equal numbers is rounding, not variance.
        rounding = _NO_VARIANCE * q
        d1, d0 = q1 - s1 * m1, (q - q1) - (s - s1) * m0
        d1, d0 = np.where(d1 > rounding, d1, 0.0), np.where(d0 > rounding, d0, 0.0)
        scale = float(np.sqrt(q.sum() / max(n.sum(), 1.0)))
    usable = (n1 >= least) & (n0 >= least)
    found = difference_of_means(Moments(n1, m1, d1), Moments(n0, m0, d0), usable, _NO_VARIANCE * scale, _LEVEL)
    compared = np.where(usable, n1, 0.0).sum(axis=1), np.where(usable, n0, 0.0).sum(axis=1)
    sound = (np.minimum(*compared) >= enough) & np.isfinite(found.effect) & ~np.isnan(found.p)
    return Difference(
        np.where(sound, found.effect, np.nan),
        np.where(sound, found.t, 0.0),
        np.where(sound, found.p, 1.0),
        np.where(sound, found.half_width, np.nan),
    )


def _marks(n: int) -> Floats:
    """Numbers for n trades, as good as random (Steele, Lea & Flood 2014, SplitMix64), of which every sum is exact."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(12 + n.bit_length())).astype(np.float64)


@dataclass(frozen=True)
class _Branch:
    """The group-by of a prefix (a set of dimensions) with one more ``dimension``.

    ``kept``: the combinations with enough trades, ascending, each value x radix of the prefix + id within the prefix;
    ``first``: the number of the first of them among all that were found; ``above``: the group-by that this one refines;
    ``deeper``: the group-bys that refine this one.
    """

    dimension: int
    kept: Ints
    first: int
    above: "_Branch | None"
    deeper: "list[_Branch]"


@dataclass(frozen=True)
class _Level:
    """What was found in one group-by: its ``dimensions`` (k,), and ``values`` (m, k), ``counts``, sums of ``marks`` and
    ``wins`` (m,)."""

    dimensions: tuple[int, ...]
    values: Ints
    counts: Floats
    marks: Floats
    wins: Floats


class Cube:
    """All candidates of a group, ordered by (conditions, dimension, value), and their tests in the present cells.

    Building it is the first pass. Arrays (candidates,): ``effect``, ``t``, ``p`` and ``half_width`` as
    :func:`compare` gives them, and ``sums`` (3, candidates): count, sum and sum of squares of rr less ``middle``.

    Codes of a dimension: 0 is none or too rare, from 1 on the values with enough trades, in order of their names. Ids
    within a prefix: 0 is none or too rare.
    """

    def __init__(self, group: Group, mining: MiningPolicy) -> None:
        self.group, self.mining = group, mining
        # Sums of squares lose their last digits to a large mean; less a middle value, equal numbers are exactly 0.
        self.middle = float(np.partition(group.rr, group.n // 2)[group.n // 2])
        self.y = group.rr - self.middle
        self.yy = self.y * self.y
        self.day: Ints = np.unique(group.days, return_inverse=True)[1]
        self.dimensions: list[str] = []
        self.values: list[list[str]] = []
        self.codes: list[Ints] = []
        self.left_out = self._read_columns()
        self._rows_of: dict[tuple[int, int], Ints] = {}

        self.marks = _marks(group.n)
        self.won = (group.rr > 0).astype(np.float64)
        self._found = 0
        self._levels: list[_Level] = []
        self._firsts: list[int] = []
        self._homes: list[_Branch] = []
        everything = np.ones(group.n, np.int64)
        self._branches = self._explore(None, (), np.empty((1, 0), np.int64), everything, 2)
        self._name_candidates()

        self.sums = np.zeros((3, self.size))
        self.accepted: list[Lesson] = []
        self.cell = np.zeros(group.n, np.int64)
        self.seen = np.ones(group.n, np.bool_)
        self._test()

    def _read_columns(self) -> tuple[str, ...]:
        least, n = self.mining.min_trades, self.group.n
        minable: dict[str, tuple[int, Ints]] = {}
        for dimension, column in self.group.columns.items():
            counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
            frequent = np.flatnonzero(counts >= least)
            if (n - counts[frequent] >= least).any():
                minable[dimension] = int(counts.sum()), frequent
        ranked = sorted(minable, key=lambda name: (name not in DIMENSIONS, -minable[name][0], name))
        limit = self.mining.max_dimensions
        for dimension in sorted(ranked[:limit]):
            frequent, column = minable[dimension][1], self.group.columns[dimension]
            code_of = np.zeros(len(column.values) + 1, np.int64)  # the last is for -1
            code_of[frequent] = np.arange(1, len(frequent) + 1)
            self.dimensions.append(dimension)
            self.values.append([column.values[code] for code in frequent])
            self.codes.append(code_of[column.codes])
        return tuple(sorted(ranked[limit:]))

    # Candidates.

    def _explore(
        self, above: _Branch | None, prefix: tuple[int, ...], values: Ints, ids: Ints, radix: int
    ) -> list[_Branch]:
        """Look for refinements of a prefix; ``values`` (radix - 1, k): what its ids stand for, ``ids`` (n,)."""
        limit = self.mining.max_conditions
        branches: list[_Branch] = []
        further = range(prefix[-1] + 1 if prefix else 0, len(self.codes))
        for dimension, (labels, (counts, marks, wins)) in self._group_bys(further, ids, radix, (self.marks, self.won)):
            enough = np.flatnonzero((counts >= self.mining.min_trades) & (labels >= radix) & (labels % radix > 0))
            if not len(enough):
                continue
            kept = labels[enough]
            found = np.column_stack((values[kept % radix - 1], kept // radix))
            first, self._found = self._found, self._found + len(kept)
            path = (*prefix, dimension)
            self._levels.append(_Level(path, found, counts[enough], marks[enough], wins[enough]))
            branch = _Branch(dimension, kept, first, above, [])
            branches.append(branch)
            self._firsts.append(first)
            self._homes.append(branch)
            if dimension + 1 < len(self.codes) and (limit is None or len(path) < limit):
                inner = self._inner(branch, ids, radix)
                branch.deeper.extend(self._explore(branch, path, found, inner, len(kept) + 1))
        return branches

    def _inner(self, branch: _Branch, ids: Ints, radix: int) -> Ints:
        """Ids within a branch (n,) from those within its prefix."""
        combined, kept = self.codes[branch.dimension] * radix + ids, branch.kept
        size = (len(self.values[branch.dimension]) + 1) * radix
        if size <= max(4 * len(ids), BLOCK):
            id_of = np.zeros(size, np.int64)
            id_of[kept] = np.arange(1, len(kept) + 1)
            renumbered: Ints = id_of[combined]
            return renumbered
        place = np.minimum(np.searchsorted(kept, combined), len(kept) - 1)
        return np.where(kept[place] == combined, place + 1, 0)

    def _group_bys(
        self, dimensions: Iterable[int], ids: Ints, radix: int, weights: Sequence[Floats]
    ) -> Iterator[tuple[int, tuple[Ints, Floats]]]:
        """For each dimension the labels (value x radix + id) that there are, and (1 + weights, labels): the count and
        sums of the weights. All dimensions are gone through block by block, while a block is in the cache."""
        dense = {}
        for dimension in dimensions:
            size = (len(self.values[dimension]) + 1) * radix
            if size > max(4 * len(ids), BLOCK):
                # More combinations than trades: only those that occur, found by sorting.
                labels, codes = np.unique(self.codes[dimension] * radix + ids, return_inverse=True)
                sums = [np.bincount(codes, each, len(labels)) for each in (None, *weights)]
                yield dimension, (labels, np.array(sums, np.float64))
            else:
                dense[dimension] = np.zeros((1 + len(weights), size))
        for start in range(0, len(ids), BLOCK):
            block = slice(start, start + BLOCK)
            inner, parts = ids[block], [each[block] for each in weights]
            for dimension, table in dense.items():
                code = self.codes[dimension][block] * radix
                code += inner
                table[0] += np.bincount(code, minlength=table.shape[1])
                for row, part in enumerate(parts, 1):
                    table[row] += np.bincount(code, part, table.shape[1])
        for dimension, table in dense.items():
            yield dimension, (np.arange(table.shape[1]), table)

    def _name_candidates(self) -> None:
        """Number the candidates; of those that select the same trades the first stays."""
        depth = max((len(level.dimensions) for level in self._levels), default=1)
        conditions = np.full((self._found, 2 * depth), -1, np.int32)
        start = 0
        for level in self._levels:
            rows = slice(start, start + len(level.values))
            conditions[rows, 0 : 2 * len(level.dimensions) : 2] = level.dimensions
            conditions[rows, 1 : 2 * len(level.dimensions) : 2] = level.values
            start += len(level.values)
        lengths = (conditions[:, ::2] >= 0).sum(axis=1)
        counts = np.concatenate([np.empty(0), *(level.counts for level in self._levels)])
        marks = np.concatenate([np.empty(0), *(level.marks for level in self._levels)])
        wins = np.concatenate([np.empty(0), *(level.wins for level in self._levels)])
        self._levels.clear()
        order = np.lexsort((*conditions.T[::-1], lengths))
        order = order[self.group.n - counts[order] >= self.mining.min_trades]
        self.conditions = conditions[order]
        # Equal counts and equal sums of the trades' marks: most probably the same trades, which is then looked up.
        alike = np.lexsort((np.arange(len(order)), marks[order], counts[order]))
        same = (np.diff(counts[order][alike]) == 0) & (np.diff(marks[order][alike]) == 0)
        stays = np.ones(len(order), np.bool_)
        representatives: list[int] = []
        for place in np.flatnonzero(same) + 1:
            if place == 1 or not same[place - 2]:
                representatives = [int(alike[place - 1])]
            chosen = self.rows(int(alike[place]))
            if any(np.array_equal(chosen, self.rows(other)) for other in representatives):
                stays[alike[place]] = False
            else:
                representatives.append(int(alike[place]))
        self.conditions, self.lengths = self.conditions[stays], lengths[order][stays]
        self.found_as = order[stays]
        self.wins = wins[self.found_as]
        self.numbers = np.full(self._found, -1, np.int64)
        self.numbers[self.found_as] = np.arange(len(self.conditions))

    @property
    def size(self) -> int:
        """How many candidates."""
        return len(self.conditions)

    def named(self, candidate: int) -> dict[str, str]:
        """The conditions of a candidate."""
        pairs = self.conditions[candidate].reshape(-1, 2)
        return {self.dimensions[d]: self.values[d][v - 1] for d, v in pairs if d >= 0}

    def rows(self, candidate: int) -> Ints:
        """Its trades, ascending: the shortest list of a condition's trades, filtered by the other conditions."""
        pairs = [(int(d), int(v)) for d, v in self.conditions[candidate].reshape(-1, 2) if d >= 0]
        for pair in pairs:
            if pair not in self._rows_of:
                self._rows_of[pair] = np.flatnonzero(self.codes[pair[0]] == pair[1])
        shortest = min(pairs, key=lambda pair: len(self._rows_of[pair]))
        rows = self._rows_of[shortest]
        for d, v in pairs:
            if (d, v) != shortest:
                rows = rows[self.codes[d][rows] == v]
        return rows

    # Tests.

    def split(self, candidate: int) -> None:
        """Split every cell by a candidate and test all candidates again."""
        inside = np.zeros(self.group.n, np.int64)
        inside[self.rows(candidate)] = 1
        self.cell = self.cell * 2 + inside
        self._test()

    def _test(self) -> None:
        """Number the cells that can still be compared, and compare within them."""
        _, cell = np.unique(self.cell, return_inverse=True)
        usable = np.bincount(cell[self.seen], minlength=int(cell.max()) + 1) >= 2 * self.mining.min_cell_trades
        self.seen = self.seen & usable[cell]
        self.cell = np.where(self.seen, (np.cumsum(usable) - 1)[cell], 0)
        self.width = max(int(usable.sum()), 1)
        rows = np.flatnonzero(self.seen)
        days, cell = self.day[rows], self.cell[rows]
        spread, size = days * self.width + cell, (int(self.day.max()) + 1) * self.width
        self.cells = np.array(
            [np.bincount(cell, each, self.width) for each in (None, self.y[rows], self.yy[rows])], np.float64
        )
        self.by_day = np.array(
            [np.bincount(spread, each, size).reshape(-1, self.width) for each in (None, self.y[rows])], np.float64
        )
        self.effect, self.half_width = np.full(self.size, np.nan), np.full(self.size, np.nan)
        self.t, self.p = np.zeros(self.size), np.ones(self.size)
        self.clustered = np.zeros(self.size, np.bool_)
        self.p_by_day, self.half_width_by_day = np.full(self.size, np.nan), np.full(self.size, np.nan)
        self._compare(self._branches, self.seen.astype(np.int64), 2)

    def _compare(self, branches: Sequence[_Branch], ids: Ints, radix: int) -> None:
        """Compare the candidates of these branches and of those below them."""
        spread = ids * self.width + self.cell
        branch_of = {branch.dimension: branch for branch in branches}
        which, sums = [], []
        for dimension, (labels, table) in self._group_bys(branch_of, spread, radix * self.width, (self.y, self.yy)):
            branch = branch_of[dimension]
            numbers = self.numbers[branch.first : branch.first + len(branch.kept)]
            wanted = numbers >= 0
            inside = np.zeros((3, len(branch.kept), self.width))
            if len(table[0]) == (len(self.values[dimension]) + 1) * radix * self.width:
                inside[:] = table.reshape(3, -1, self.width)[:, branch.kept]
            else:
                place = np.minimum(np.searchsorted(branch.kept, labels // self.width), len(branch.kept) - 1)
                hit = branch.kept[place] == labels // self.width
                inside[:, place[hit], labels[hit] % self.width] = table[:, hit]
            which.append(numbers[wanted])
            sums.append(inside[:, wanted])
        if which:
            some = np.concatenate(which)
            inside = np.concatenate(sums, axis=1)
            if not self.accepted:
                self.sums[:, some] = inside[:, :, 0]
            result = compare(inside, self.cells, self.mining)
            self.effect[some], self.t[some] = result.effect, result.t
            self.p[some], self.half_width[some] = result.p, result.half_width
        for branch in branches:
            if branch.deeper:
                inner = self._inner(branch, ids, radix)
                self._compare(branch.deeper, inner, len(branch.kept) + 1)

    def cluster(self, candidate: int) -> None:
        """Raise the candidate's p to the one with errors clustered by day, if that is larger."""
        self.clustered[candidate] = True
        if math.isnan(self.p_by_day[candidate]):
            place = int(np.searchsorted(self._firsts, self.found_as[candidate], side="right")) - 1
            self._cluster(self._homes[place])
        self.p[candidate] = max(self.p[candidate], self.p_by_day[candidate])
        self.half_width[candidate] = np.fmax(self.half_width[candidate], self.half_width_by_day[candidate])

    def _cluster(self, branch: _Branch) -> None:
        """p and intervals of the candidates of a branch with errors clustered by day (Liang & Zeger 1986).

        The effect is a sum over trades. Its variance is the sum over days of the squares of what each day adds, times
        g / (g - 1), and t has g - 1 degrees of freedom, where g is the number of days with selected trades, or with
        others if these are fewer: what holds on all days but nine is known from nine days, too.
        """
        path = [branch]
        while path[0].above is not None:
            path.insert(0, path[0].above)
        ids, radix = self.seen.astype(np.int64), 2
        for part in path:
            ids, radix = self._inner(part, ids, radix), len(part.kept) + 1
        spread, shape = ids * self.width + self.cell, (radix, self.width)
        n1 = np.bincount(spread, minlength=radix * self.width).reshape(shape).astype(np.float64)
        s1 = np.bincount(spread, self.y, radix * self.width).reshape(shape)
        n, s, _ = self.cells
        n0 = n - n1
        least = self.mining.min_cell_trades
        usable = (n1 >= least) & (n0 >= least)
        usable[0] = False
        n1, n0 = np.where(usable, n1, 1.0), np.where(usable, n0, 1.0)
        w = np.where(usable, n1 * n0 / n, 0.0)
        total = w.sum(axis=1, keepdims=True)
        share = w / np.where(total > 0, total, 1.0)
        m1, m0 = s1 / n1, (s - s1) / n0
        # What a day adds: its selected trades, less its others, which are all of its trades less its selected ones.
        slope, shift = share * (1 / n1 + 1 / n0), share * (m1 / n1 + m0 / n0)
        by_day, days = ids * len(self.by_day[0]) + self.day, len(self.by_day[0])
        adds = np.bincount(by_day, slope.ravel()[spread] * self.y - shift.ravel()[spread], radix * days)
        adds = adds.reshape(radix, days) - np.einsum("kc,gc->kg", share / n0, self.by_day[1])
        adds += np.einsum("kc,gc->kg", share * m0 / n0, self.by_day[0])
        inside = np.bincount(by_day, usable.ravel()[spread], radix * days).reshape(radix, days)
        outside = np.einsum("kc,gc->kg", usable.astype(np.float64), self.by_day[0]) - inside
        g = np.minimum((inside > 0).sum(axis=1), (outside > 0).sum(axis=1))
        with np.errstate(all="ignore"):
            error = clustered_error(adds, g)
            effect = (share * (m1 - m0)).sum(axis=1)
            p = np.where(g >= self.mining.min_days, student_p(effect / error, g - 1), 1.0)
            half_width = t_half_width(error, g - 1, _LEVEL)
        numbers = self.numbers[branch.first : branch.first + len(branch.kept)]
        wanted = numbers >= 0
        self.p_by_day[numbers[wanted]] = np.where(np.isnan(p), 1.0, p)[1:][wanted]
        self.half_width_by_day[numbers[wanted]] = half_width[1:][wanted]

    def lesson(
        self, candidate: int, standing: Standing, q: float, explained_by: Mapping[str, str] | None = None
    ) -> Lesson:
        """The candidate as it stands."""
        n, total, squares = (float(each) for each in self.sums[:, candidate])
        left = squares - total * total / n
        average = self.middle + total / n
        effect, half_width = float(self.effect[candidate]), float(self.half_width[candidate])
        compared = not math.isnan(effect)
        return Lesson(
            self.group.pattern_key,
            self.group.action_category,
            self.named(candidate),
            standing,
            int(n),
            average,
            left / (n - 1) if left > _NO_VARIANCE * squares else 0.0,
            float(self.wins[candidate]) / n,
            average - self.mining.baseline_rr,
            effect if compared else None,
            effect - half_width if compared else None,
            effect + half_width if compared else None,
            float(self.p[candidate]),
            q,
            explained_by,
        )


def _baseline(group: Group, mining: MiningPolicy) -> Lesson:
    """All trades of the group against the baseline: Student's t test of one sample."""
    average = float(group.rr.mean())
    edge = average - mining.baseline_rr
    p, half_width = 1.0, None
    if group.n > 1:
        error = math.sqrt(group.variance / group.n)
        half_width = float(t_half_width(error, group.n - 1, _LEVEL))
        t = abs(edge) / error if error > 0 else math.inf if edge else 0.0
        p = float(student_p(t, group.n - 1))
    return Lesson(
        group.pattern_key,
        group.action_category,
        {},
        Standing.baseline,
        group.n,
        average,
        group.variance if group.n > 1 else None,
        float((group.rr > 0).mean()),
        edge,
        edge,
        None if half_width is None else edge - half_width,
        None if half_width is None else edge + half_width,
        p,
        None,
        None,
    )


class _Selection:
    """Which candidates of all groups are lessons, and which are only shadows of these."""

    def __init__(self, cubes: Sequence[Cube], mining: MiningPolicy) -> None:
        self.cubes, self.mining = cubes, mining
        self.starts = np.cumsum([0, *(cube.size for cube in cubes)])
        self.q = np.empty(0)
        self.at_first = self._qualifying()
        self.taken = np.zeros(len(self.at_first), np.bool_)
        # Of each candidate the place, among the accepted of its group, of the one that explains it.
        self.explained = np.full(len(self.at_first), -1)

    def _joined(self, parts: Iterable[Floats]) -> Floats:
        return np.concatenate([np.empty(0), *parts])

    def _qualifying(self) -> Bools:
        """What is significant and large enough when days are taken into account; sets q.

        The p of everything that is significant is raised, until nothing new is: what is left unraised among the
        significant would lend its rank, and so a higher threshold, to the luck of a few days.
        """
        while True:
            self.q = benjamini_hochberg(self._joined(cube.p for cube in self.cubes))
            significant = self.q <= self.mining.max_q
            raised = False
            for cube, part in zip(self.cubes, np.split(significant, self.starts[1:-1]), strict=False):
                for candidate in np.flatnonzero(part & ~cube.clustered):
                    cube.cluster(int(candidate))
                    raised = True
            if not raised:
                break
        large: Bools = np.abs(self._joined(cube.effect for cube in self.cubes)) >= self.mining.min_effect
        return significant & large

    def run(self) -> None:
        """Accept the best, split its group's cells, test again, until nothing qualifies."""
        qualifying = self.at_first
        while qualifying.any():
            place, candidate = min(map(self._located, np.flatnonzero(qualifying).tolist()), key=self._rank)
            cube, start = self.cubes[place], int(self.starts[place])
            cube.accepted.append(cube.lesson(candidate, Standing.accepted, float(self.q[start + candidate])))
            self.taken[start + candidate] = True
            cube.split(candidate)
            qualifying = self._qualifying()
            group = slice(start, start + cube.size)
            gone = (self.explained[group] == -1) & ~qualifying[group]
            self.explained[group][gone] = len(cube.accepted) - 1

    def _located(self, index: int) -> tuple[int, int]:
        place = int(np.searchsorted(self.starts, index, side="right")) - 1
        return place, index - int(self.starts[place])

    def _rank(self, located: tuple[int, int]) -> tuple[float, float, int, int, int]:
        """Smallest p, then largest |t|, fewest conditions, key."""
        place, candidate = located
        cube = self.cubes[place]
        return float(cube.p[candidate]), -float(cube.t[candidate]), int(cube.lengths[candidate]), place, candidate

    def shadows(self, place: int) -> Iterator[Lesson]:
        """What was significant at first and was not accepted."""
        cube, start = self.cubes[place], int(self.starts[place])
        group = slice(start, start + cube.size)
        for candidate in np.flatnonzero(self.at_first[group] & ~self.taken[group]):
            by = int(self.explained[start + candidate])
            explained_by = cube.accepted[by].conditions if by >= 0 else None
            yield cube.lesson(int(candidate), Standing.shadow, float(self.q[start + candidate]), explained_by)


def mine(groups: Sequence[Group], mining: MiningPolicy) -> Mined:
    """All lessons of the groups of one run (of one book): their candidates are one family of tests."""
    groups = sorted((group for group in groups if group.n), key=lambda group: group.key)
    cubes = [Cube(group, mining) for group in groups]
    selection = _Selection(cubes, mining)
    selection.run()
    lessons: list[Lesson] = []
    for place, (group, cube) in enumerate(zip(groups, cubes, strict=True)):
        lessons += [_baseline(group, mining), *cube.accepted, *selection.shadows(place)]
    left_out = {cube.group.key: cube.left_out for cube in cubes if cube.left_out}
    return Mined(lessons, sum(cube.size for cube in cubes), left_out)
