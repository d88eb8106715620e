"""Tests of all candidates of a cube, within the cells into which the trades are split so far.

Stratified Welch and pooled tests of every candidate at once, from sums of rr by candidate and cell; and, for those
that look significant, standard errors clustered by entry day (Liang & Zeger 1986).
"""

import math
from collections.abc import Sequence

import numpy as np

from closeloop.learning.cube import Cube
from closeloop.learning.group_by import Branch
from closeloop.learning.intervals import t_half_width
from closeloop.learning.significance import Difference, Moments, clustered_error, difference_of_means, student_p
from closeloop.learning.trades import Floats, Ints
from closeloop.models.policy import MiningPolicy

INTERVAL_LEVEL = 0.95  # at which effects have their intervals (share of 1)
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
    )


class CandidateTests:
    """What the tests say of the candidates of a cube in the present cells; :meth:`run` tests, :meth:`split` splits.

    Arrays (candidates,): ``effect``, ``t``, ``p`` and ``half_width`` as :func:`compare` gives them; ``clustered``:
    whose p has been raised by :meth:`cluster`. ``sums`` (3, candidates): count, sum and sum of squares of rr less
    ``middle``, in all cells together.
    """

    def __init__(self, cube: Cube, mining: MiningPolicy) -> None:
        group = cube.group
        self.cube, self.mining = cube, mining
        # Sums of squares lose their last digits to a large mean; less a middle value, equal numbers are exactly 0.
        self.middle = float(np.partition(group.rr, group.n // 2)[group.n // 2])
        self.sums = np.zeros((3, cube.size))
        self._y = group.rr - self.middle
        self._yy = self._y * self._y
        self._day: Ints = np.unique(group.days, return_inverse=True)[1]
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
        days, cell = self._day[rows], self._cell[rows]
        spread, size = days * self._width + cell, (int(self._day.max()) + 1) * self._width
        self._cells = np.array(
            [np.bincount(cell, each, self._width) for each in (None, self._y[rows], self._yy[rows])], np.float64
        )
        self._by_day = np.array(
            [np.bincount(spread, each, size).reshape(-1, self._width) for each in (None, self._y[rows])], np.float64
        )
        m = self.cube.size
        self.effect, self.half_width = np.full(m, np.nan), np.full(m, np.nan)
        self.t, self.p = np.zeros(m), np.ones(m)
        self.clustered = np.zeros(m, np.bool_)
        self._p_by_day, self._half_width_by_day = np.full(m, np.nan), np.full(m, np.nan)
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
        for branch in branches:
            if branch.deeper:
                self._run_below(branch.deeper, columns.refined(branch, ids, radix), branch.radix)

    def _candidates(self, branch: Branch) -> Ints:
        """Numbers of the candidates that a branch found, -1 where one is none."""
        return self.cube.candidate_of[branch.first : branch.first + len(branch.kept)]

    def cluster(self, candidate: int) -> None:
        """Raise the candidate's p to the one with errors clustered by day, if that is larger."""
        self.clustered[candidate] = True
        if math.isnan(self._p_by_day[candidate]):
            self._cluster(self.cube.home(candidate))
        self.p[candidate] = max(self.p[candidate], self._p_by_day[candidate])
        self.half_width[candidate] = np.fmax(self.half_width[candidate], self._half_width_by_day[candidate])

    def _cluster(self, branch: Branch) -> None:
        """Compute p and interval of every candidate of a branch with errors clustered by day.

        t has g - 1 degrees of freedom, where g is the number of days with trades of the candidate, or of the days with
        others if these are fewer: where all days but nine have only trades of the candidate, the comparison rests on
        those nine days.
        """
        ids, radix, width = self._seen.astype(np.int64), 2, self._width
        for part in branch.path:
            ids, radix = self.cube.columns.refined(part, ids, radix), part.radix
        spread, shape = ids * width + self._cell, (radix, width)
        n1 = np.bincount(spread, minlength=radix * width).reshape(shape).astype(np.float64)
        s1 = np.bincount(spread, self._y, radix * width).reshape(shape)
        n, s, _ = self._cells
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
        by_day, days = ids * len(self._by_day[0]) + self._day, len(self._by_day[0])
        adds = np.bincount(by_day, slope.ravel()[spread] * self._y - shift.ravel()[spread], radix * days)
        adds = adds.reshape(radix, days) - np.einsum("kc,gc->kg", share / n0, self._by_day[1])
        adds += np.einsum("kc,gc->kg", share * m0 / n0, self._by_day[0])
        inside = np.bincount(by_day, usable.ravel()[spread], radix * days).reshape(radix, days)
        outside = np.einsum("kc,gc->kg", usable.astype(np.float64), self._by_day[0]) - inside
        g = np.minimum((inside > 0).sum(axis=1), (outside > 0).sum(axis=1))
        with np.errstate(all="ignore"):
            error = clustered_error(adds, g)
            effect = (share * (m1 - m0)).sum(axis=1)
            p = np.where(g >= self.mining.min_days, student_p(effect / error, g - 1), 1.0)
            half_width = t_half_width(error, g - 1, INTERVAL_LEVEL)
        numbers = self._candidates(branch)
        wanted = numbers >= 0
        self._p_by_day[numbers[wanted]] = np.where(np.isnan(p), 1.0, p)[1:][wanted]
        self._half_width_by_day[numbers[wanted]] = half_width[1:][wanted]
