"""An iceberg cube: all conjunctions ``dimension = value`` of a group that enough trades meet, and enough do not.

Computed bottom up (Beyer & Ramakrishnan 1999, "Bottom-up computation of sparse and iceberg cubes"): depth first over
sets of dimensions, each a group-by of the trades. A conjunction with too few trades is not refined, because no
refinement of it can have more trades (Agrawal & Srikant 1994).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.group_by import Branch, CodedColumns
from closeloop.learning.trades import Bools, Floats, Group, Ints
from closeloop.models.policy import MiningPolicy


@dataclass(frozen=True)
class Cube:
    """The candidates of a group, ordered by (conditions, dimension, value). Made by :func:`iceberg_cube`.

    ``conditions`` (candidates, 2 depth): dimension and code in turn, -1 where there are fewer; ``lengths`` how many,
    and ``wins`` trades of rr > 0, (candidates,). ``branches``: the group-bys of a single dimension, below which are
    the others; the candidate that was found as number f is ``candidate_of[f]``, -1 where it is none, and
    ``home(candidate)`` is the branch that found it.
    """

    group: Group
    columns: CodedColumns
    branches: list[Branch]
    conditions: NDArray[np.int32]
    lengths: Ints
    wins: Floats
    candidate_of: Ints
    found_as: Ints
    homes: list[Branch]

    @property
    def size(self) -> int:
        """How many candidates."""
        return len(self.conditions)

    def named(self, candidate: int) -> dict[str, str]:
        """The conditions of a candidate."""
        columns = self.columns
        return {columns.dimensions[d]: columns.values[d][code - 1] for d, code in _pairs(self.conditions[candidate])}

    def rows(self, candidate: int) -> Ints:
        """Its trades, ascending."""
        return self.columns.rows(_pairs(self.conditions[candidate]))

    def home(self, candidate: int) -> Branch:
        """The branch that found a candidate."""
        return self.homes[int(self.branch_numbers(self.found_as[candidate]))]

    def branch_numbers(self, found_as: Ints | np.int64) -> Ints:
        """Numbers, among ``homes``, of the branches that found these."""
        return np.searchsorted(self._firsts, found_as, side="right") - 1

    @cached_property
    def _firsts(self) -> list[int]:
        return [branch.first for branch in self.homes]


def iceberg_cube(group: Group, mining: MiningPolicy) -> Cube:
    """The candidates of a group: at most ``max_conditions`` long, with ``min_trades`` inside and outside.

    Of those that select the same trades the first stays.
    """
    columns = CodedColumns.of(group, mining)
    search = _Search(group, columns, mining)
    branches = search.below(None, (), np.empty((1, 0), np.int64), np.ones(group.n, np.int64), 2)
    found = search.found()
    order = np.lexsort((*found.conditions.T[::-1], found.lengths))
    order = order[group.n - found.counts[order] >= mining.min_trades]
    order = order[_distinct(columns, found, order)]
    candidate_of = np.full(len(found.conditions), -1, np.int64)
    candidate_of[order] = np.arange(len(order))
    return Cube(
        group,
        columns,
        branches,
        found.conditions[order],
        found.lengths[order],
        found.wins[order],
        candidate_of,
        order,
        search.homes,
    )


class _Found(NamedTuple):
    """Conjunctions with enough trades, in the order of the search: ``conditions`` (found, 2 depth) as in the cube, and
    ``lengths``, ``counts``, sums of ``marks`` and ``wins`` (found,)."""

    conditions: NDArray[np.int32]
    lengths: Ints
    counts: Floats
    marks: Floats
    wins: Floats


class _Level(NamedTuple):
    """What was found in one group-by: its ``dimensions`` (k,), and ``values`` (m, k), ``counts``, sums of ``marks`` and
    ``wins`` (m,)."""

    dimensions: tuple[int, ...]
    values: Ints
    counts: Floats
    marks: Floats
    wins: Floats


class _Search:
    """The search through the group-bys, depth first."""

    def __init__(self, group: Group, columns: CodedColumns, mining: MiningPolicy) -> None:
        self.columns, self.mining = columns, mining
        self.marks = _marks(group.n)
        self.won = (group.rr > 0).astype(np.float64)
        self.homes: list[Branch] = []
        self.levels: list[_Level] = []
        self.count = 0

    def below(self, above: Branch | None, prefix: tuple[int, ...], values: Ints, ids: Ints, radix: int) -> list[Branch]:
        """Find the refinements of a prefix; ``values`` (radix - 1, k): what its ids stand for, ``ids`` (n,)."""
        columns, mining = self.columns, self.mining
        branches: list[Branch] = []
        further = range(prefix[-1] + 1 if prefix else 0, len(columns.codes))
        weights = self.marks, self.won
        for dimension, (labels, (counts, marks, wins)) in columns.group_bys(further, ids, radix, weights):
            enough = np.flatnonzero((counts >= mining.min_trades) & (labels >= radix) & (labels % radix > 0))
            if not len(enough):
                continue
            kept = labels[enough]
            found = np.column_stack((values[kept % radix - 1], kept // radix))
            path = (*prefix, dimension)
            self.levels.append(_Level(path, found, counts[enough], marks[enough], wins[enough]))
            branch = Branch(dimension, kept, self.count, above, [])
            self.count += len(kept)
            self.homes.append(branch)
            branches.append(branch)
            if dimension + 1 < len(columns.codes) and len(path) < (mining.max_conditions or math.inf):
                inner = columns.refined(branch, ids, radix)
                branch.deeper.extend(self.below(branch, path, found, inner, branch.radix))
        return branches

    def found(self) -> _Found:
        """All that was found, level after level."""
        depth = max((len(level.dimensions) for level in self.levels), default=1)
        conditions = np.full((self.count, 2 * depth), -1, np.int32)
        start = 0
        for level in self.levels:
            rows = slice(start, start + len(level.values))
            conditions[rows, 0 : 2 * len(level.dimensions) : 2] = level.dimensions
            conditions[rows, 1 : 2 * len(level.dimensions) : 2] = level.values
            start += len(level.values)
        joined = [
            np.concatenate([np.empty(0), *(getattr(level, name) for level in self.levels)])
            for name in ("counts", "marks", "wins")
        ]
        return _Found(conditions, (conditions[:, ::2] >= 0).sum(axis=1), *joined)


def _distinct(columns: CodedColumns, found: _Found, order: Ints) -> Bools:
    """Which of these select trades that none before them selects.

    Those with equal counts and equal sums of the trades' marks most probably select the same trades: their trades are
    compared.
    """

    def rows(place: int) -> Ints:
        return columns.rows(_pairs(found.conditions[order[place]]))

    counts, marks = found.counts[order], found.marks[order]
    alike = np.lexsort((np.arange(len(order)), marks, counts))
    same = (np.diff(counts[alike]) == 0) & (np.diff(marks[alike]) == 0)
    stays = np.ones(len(order), np.bool_)
    representatives: list[int] = []
    for place in np.flatnonzero(same) + 1:
        if place == 1 or not same[place - 2]:
            representatives = [int(alike[place - 1])]
        chosen = rows(int(alike[place]))
        if any(np.array_equal(chosen, rows(other)) for other in representatives):
            stays[alike[place]] = False
        else:
            representatives.append(int(alike[place]))
    return stays


def _pairs(conditions: NDArray[np.int32]) -> list[tuple[int, int]]:
    """(dimension, code) of a row of conditions."""
    return [(d, code) for d, code in conditions.reshape(-1, 2).tolist() if d >= 0]


def _marks(n: int) -> Floats:
    """Pseudorandom numbers (n,) by SplitMix64 (Steele, Lea & Flood 2014), small enough that every sum of them is exact.

    Two selections of trades with the same count and sum of marks are compared trade by trade.
    """
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(12 + n.bit_length())).astype(np.float64)
