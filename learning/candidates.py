"""Tests of all candidates of a cube, within the cells into which the trades are split so far.

Stratified Welch and pooled tests of every candidate at once, from sums of rr by candidate and cell; and, for those
that look significant, standard errors clustered by entry day (Liang & Zeger 1986) and with the luck of periods and of
symbols (``luck``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from closeloop.learning import luck
from closeloop.learning.contrasts import Clusters, Contrasts
from closeloop.learning.cube import Cube
from closeloop.learning.group_by import Branch
from closeloop.learning.intervals import t_half_width
from closeloop.learning.significance import Difference, Moments, clustered_error, difference_of_means, student_p
from closeloop.learning.trades import Bools, Floats, Ints
from closeloop.models.policy import MiningPolicy

INTERVAL_LEVEL = 0.95  # at which effects have their intervals (share of 1)
SUMS_AT_ONCE = 500_000  # clusters of candidates that are added up at a time
WEEKS = {"week": 1, "four_weeks": 4, "quarter": 12}  # in a period
ROUNDING_SHARE = 1e-12  # share of a cell's sum of squares below which what is left of a variance is rounding


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
        rounding = ROUNDING_SHARE * q
        d1, d0 = q1 - s1 * m1, (q - q1) - (s - s1) * m0
        d1, d0 = np.where(d1 > rounding, d1, 0.0), np.where(d0 > rounding, d0, 0.0)
        scale = float(np.sqrt(q.sum() / max(n.sum(), 1.0)))
    usable = (n1 >= least) & (n0 >= least)
    found = difference_of_means(
        Moments(n1, m1, d1), Moments(n0, m0, d0), usable, ROUNDING_SHARE * scale, INTERVAL_LEVEL
    )
    compared = np.where(usable, n1, 0.0).sum(axis=1), np.where(usable, n0, 0.0).sum(axis=1)
    sound = (np.minimum(*compared) >= enough) & np.isfinite(found.effect) & ~np.isnan(found.p)
    return Difference(
        np.where(sound, found.effect, np.nan),
        np.where(sound, found.t, 0.0),
        np.where(sound, found.p, 1.0),
        np.where(sound, found.half_width, np.nan),
        *found[4:],
    )


@dataclass(frozen=True)
class Periods:
    """Periods of entry: the place of each trade's ``day`` among the ``days`` on which the group has trades, and, by the
    name of a longer period, the days with which its blocks start."""

    day: Ints
    days: int
    starts: Mapping[str, Ints]

    @classmethod
    def of(cls, days: Ints, mining: MiningPolicy) -> "Periods":
        """Of UTC days counted from 1970 (n,). Weeks are those of ISO 8601: they start on Mondays."""
        there, day = np.unique(days, return_inverse=True)
        starts = {}
        for name, weeks in WEEKS.items():
            if name != "quarter" or (len(there) and there[-1] - there[0] + 1 >= 7 * mining.quarter_weeks):
                block = (there + 3) // (7 * weeks)
                starts[name] = np.flatnonzero(np.diff(block, prepend=block[:1] - 1))
        return cls(day, len(there), starts)


class ByDay(NamedTuple):
    """Tests with errors clustered by day, arrays (m,): ``days`` that the comparison rests on, error, p, half-width."""

    days: Ints
    error: Floats
    p: Floats
    half_width: Floats


class ByLuck(NamedTuple):
    """Tests with the luck of ``symbols`` and of each of the ``periods`` by name, arrays (m,); ``variance`` of the
    effect where trades are independent; ``few_symbols``: confined to too few of them."""

    variance: Floats
    symbols: luck.Part
    periods: Mapping[str, luck.Part]
    few_symbols: Bools
    found: luck.Luck


class Weighed(NamedTuple):
    """What one candidate is weighed against; clusters with trades ``inside`` and ``outside``, by clustering."""

    by_day: ByDay
    by_luck: ByLuck
    inside: Mapping[str, int]
    outside: Mapping[str, int]


def by_day(contrasts: Contrasts, days: Clusters, least: int) -> ByDay:
    """Test differences with errors clustered by entry day; p is 1 with fewer than ``least`` days.

    t has g - 1 degrees of freedom, where g is the number of days with trades of the candidate, or of the days with
    others if these are fewer: where all days but nine have only trades of the candidate, the comparison rests on those
    nine days.
    """
    inside = contrasts.inside(days)
    outside = contrasts.compared(days) - inside
    g = np.minimum((inside > 0).sum(axis=1), (outside > 0).sum(axis=1))
    with np.errstate(all="ignore"):
        error = clustered_error(contrasts.added(days), g)
        p = np.where(g >= least, student_p(contrasts.effect / error, g - 1), 1.0)
        half_width = t_half_width(error, g - 1, INTERVAL_LEVEL)
    return ByDay(g, error, np.where(np.isnan(p), 1.0, p), half_width)


def by_luck(
    base: luck.Base,
    contrasts: Contrasts,
    symbols: Clusters,
    days: Clusters,
    periods: Periods,
    mining: MiningPolicy,
    chosen: Ints | slice = slice(None),
    spells: Clusters | None = None,
) -> ByLuck:
    """Test the ``chosen`` differences with the luck of symbols and of periods; ``spells`` are one more of these."""
    by_symbol, of_days = contrasts.sums(symbols, chosen), contrasts.sums(days, chosen)
    of_symbols = luck.part(by_symbol, base, mining)
    few = luck.confined(by_symbol, of_symbols, base, mining)
    of_periods = {"day": luck.part(of_days, base, mining)}
    for name, starts in periods.starts.items():
        of_periods[name] = luck.part(of_days.merged(starts), base, mining)
    if spells is not None:
        of_periods["spell"] = luck.part(contrasts.sums(spells, chosen), base, mining)
    found = luck.weighed(base, of_symbols, few, list(of_periods.values()), INTERVAL_LEVEL)
    return ByLuck(base.variance, of_symbols, of_periods, few, found)


class CandidateTests:
    """What the tests say of the candidates of a cube in the present cells; :meth:`run` tests, :meth:`split` splits.

    Arrays (candidates,): ``effect``, ``t``, ``p``, ``half_width`` and the others of :func:`compare`; p and half_width
    are raised by :meth:`raise_p`. ``sums`` (3, candidates): count, sum and sum of squares of rr less ``middle``, in all
    cells together.
    """

    def __init__(self, cube: Cube, mining: MiningPolicy) -> None:
        group = cube.group
        self.cube, self.mining = cube, mining
        # Sums of squares lose their last digits to a large mean; less a middle value, equal numbers are exactly 0.
        self.middle = float(np.partition(group.rr, group.n // 2)[group.n // 2])
        self.sums = np.zeros((3, cube.size))
        self._y = group.rr - self.middle
        self._yy = self._y * self._y
        self._periods = Periods.of(group.days, mining)
        self._whole = True  # nothing is split yet
        self._cell = np.zeros(group.n, np.int64)
        self._seen = np.ones(group.n, np.bool_)  # trades of cells that can still be compared

    def split(self, candidate: int) -> None:
        """Split every cell by a candidate, and test all candidates again."""
        inside = np.zeros(self.cube.group.n, np.int64)
        inside[self.cube.rows(candidate)] = 1
        self._cell = self._cell * 2 + inside
        self._whole = False
        self.run()

    def run(self) -> None:
        """Number the cells that can still be compared, and test all candidates within them."""
        _, cell = np.unique(self._cell, return_inverse=True)
        usable = np.bincount(cell[self._seen], minlength=int(cell.max()) + 1) >= 2 * self.mining.min_cell_trades
        self._seen = self._seen & usable[cell]
        self._cell = np.where(self._seen, (np.cumsum(usable) - 1)[cell], 0)
        self._width = max(int(usable.sum()), 1)
        rows = np.flatnonzero(self._seen)
        self._rows, cell = rows, self._cell[rows]
        self._cells = np.array(
            [np.bincount(cell, each, self._width) for each in (None, self._y[rows], self._yy[rows])], np.float64
        )
        self._clusters: dict[str, Clusters] = {}
        m = self.cube.size
        self.effect, self.half_width = np.full(m, np.nan), np.full(m, np.nan)
        self.t, self.p = np.zeros(m), np.ones(m)
        self.variance, self.freedom, self.scatter = np.full(m, np.nan), np.full(m, np.nan), np.full(m, np.nan)
        self._run_below(self.cube.branches, self._seen.astype(np.int64), 2)

    def _run_below(self, branches: Sequence[Branch], ids: Ints, radix: int) -> None:
        """Test the candidates of these branches, and of those below them."""
        columns = self.cube.columns
        spread = ids * self._width + self._cell
        branch_of = {branch.dimension: branch for branch in branches}
        which, sums = [], []
        weights = self._y, self._yy
        for dimension, (labels, table) in columns.group_bys(branch_of, spread, radix * self._width, weights):
            branch = branch_of[dimension]
            numbers = self._candidates(branch)
            wanted = numbers >= 0
            inside = np.zeros((3, len(branch.kept), self._width))
            if len(table[0]) == (len(columns.values[dimension]) + 1) * radix * self._width:
                inside[:] = table.reshape(3, -1, self._width)[:, branch.kept]
            else:
                place = np.minimum(np.searchsorted(branch.kept, labels // self._width), len(branch.kept) - 1)
                hit = branch.kept[place] == labels // self._width
                inside[:, place[hit], labels[hit] % self._width] = table[:, hit]
            which.append(numbers[wanted])
            sums.append(inside[:, wanted])
        if which:
            some = np.concatenate(which)
            inside = np.concatenate(sums, axis=1)
            if self._whole:
                self.sums[:, some] = inside[:, :, 0]
            found = compare(inside, self._cells, self.mining)
            self.effect[some], self.t[some] = found.effect, found.t
            self.p[some], self.half_width[some] = found.p, found.half_width
            self.variance[some], self.freedom[some], self.scatter[some] = found[4:]
        for branch in branches:
            if branch.deeper:
                self._run_below(branch.deeper, columns.refined(branch, ids, radix), branch.radix)

    def _candidates(self, branch: Branch) -> Ints:
        """Numbers of the candidates that a branch found, -1 where one is none."""
        return self.cube.candidate_of[branch.first : branch.first + len(branch.kept)]

    def raise_p(self, candidates: Ints, limit: float) -> None:
        """Raise the p of these candidates (ascending) to the largest one of their own, the one with errors clustered by
        day, and the one with the luck of periods and symbols; and their half-widths likewise.

        A p above ``limit`` is not raised further.
        """
        found_as = self.cube.found_as[candidates]
        order = np.argsort(found_as)  # a branch found its candidates one after the other
        branch_of = self.cube.branch_numbers(found_as[order])
        for part in np.split(order, np.flatnonzero(np.diff(branch_of)) + 1):
            if len(part):
                for some, contrasts in self._contrasts(candidates[part]):
                    by_day = self._by_day(contrasts)
                    self._raise(some, by_day.p, by_day.half_width)
                    left = np.flatnonzero(self.p[some] <= limit)
                    if len(left):
                        by_luck = self._by_luck(some[left], contrasts, left).found
                        self._raise(some[left], by_luck.p, by_luck.half_width)

    def _contrasts(self, candidates: Ints) -> Iterator[tuple[Ints, Contrasts]]:
        """Contrasts of candidates of one branch, so many at a time that their clusters fit into memory."""
        branch = self.cube.home(int(candidates[0]))
        ids, radix = self._seen.astype(np.int64), 2
        for step in branch.path:
            ids, radix = self.cube.columns.refined(step, ids, radix), step.radix
        of_candidates = self.cube.found_as[candidates] - branch.first + 1
        most = max(1, SUMS_AT_ONCE // max(self._periods.days, len(self.cube.group.symbols.values)))
        for start in range(0, len(candidates), most):
            some = candidates[start : start + most]
            place = np.full(radix, -1, np.int64)
            place[of_candidates[start : start + most]] = np.arange(len(some))
            place[0] = -1
            which = place[ids]
            rows = np.flatnonzero(which >= 0)
            yield (
                some,
                Contrasts(
                    rows,
                    which[rows],
                    len(some),
                    self._y[rows],
                    self._cell[rows],
                    self._cells[0],
                    self._cells[1],
                    self.mining.min_cell_trades,
                ),
            )

    def _clusters_of(self, name: str, code: Ints) -> Clusters:
        if name not in self._clusters:
            rows = self._rows
            self._clusters[name] = Clusters.of(code, rows, self._y[rows], self._cell[rows], self._width)
        return self._clusters[name]

    @property
    def _days(self) -> Clusters:
        return self._clusters_of("day", self._periods.day)

    @property
    def _symbols(self) -> Clusters:
        return self._clusters_of("symbol", self.cube.group.symbols.codes.astype(np.int64))

    def clusters(self) -> dict[str, int]:
        """How many days, blocks of weeks and symbols the group's trades have, by clustering."""
        blocks = {name: len(starts) for name, starts in self._periods.starts.items()}
        symbols = len(np.unique(self.cube.group.symbols.codes))
        return {"day": self._periods.days, **blocks, "symbol": symbols}

    def weighed(self, candidate: int) -> Weighed:
        """What a candidate that can be compared is weighed against, in the present cells."""
        some, contrasts = next(self._contrasts(np.array([candidate])))
        one = np.zeros(1, np.int64)
        inside = {"day": contrasts.inside(self._days), "symbol": contrasts.inside(self._symbols)}
        compared = {"day": contrasts.compared(self._days), "symbol": contrasts.compared(self._symbols)}
        for name, starts in self._periods.starts.items():
            inside[name], compared[name] = (np.add.reduceat(x["day"], starts, axis=1) for x in (inside, compared))
        return Weighed(
            self._by_day(contrasts),
            self._by_luck(some, contrasts, one),
            {name: int((each > 0).sum()) for name, each in inside.items()},
            {name: int((compared[name] > each).sum()) for name, each in inside.items()},
        )

    def _by_day(self, contrasts: Contrasts) -> ByDay:
        return by_day(contrasts, self._days, self.mining.min_days)

    def _by_luck(self, some: Ints, contrasts: Contrasts, chosen: Ints) -> ByLuck:
        base = luck.Base(
            contrasts.effect[chosen],
            self.variance[some],
            self.freedom[some],
            self.scatter[some],
            contrasts.squares[chosen],
        )
        return by_luck(base, contrasts, self._symbols, self._days, self._periods, self.mining, chosen)

    def _raise(self, some: Ints, p: Floats, half_width: Floats) -> None:
        self.p[some] = np.maximum(self.p[some], p)
        self.half_width[some] = np.fmax(self.half_width[some], half_width)
