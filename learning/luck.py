"""Luck of periods and of symbols: how large it is, and what it adds to the error of a difference of means.

Every period and every symbol has luck of its own. Trades that share a cluster (an entry day, a block of weeks, a
symbol) share its luck, and a condition that hardly varies within clusters rests on few of them. The variance of that
luck is estimated from the means of the clusters, as the variance between studies is in a meta-analysis (DerSimonian &
Laird 1986, "Meta-analysis in clinical trials"), and goes into the error as far as the difference rests on it: a
condition that varies within the clusters loses nothing.
"""

from typing import NamedTuple

import numpy as np

from closeloop.learning.intervals import t_half_width
from closeloop.learning.significance import student_p
from closeloop.learning.trades import Bools, Floats, Ints
from closeloop.models.policy import MiningPolicy

NO_CONTRAST = 1e-12  # share of the sum of squared weights of trades up to which clusters cancel: the rest is rounding


class ClusterSums(NamedTuple):
    """Of m differences, by cluster, arrays (m, g): how many trades they compare (``n``), the sum of the weights with
    which their y enter the difference (``weight``), and of their residuals (``residual``)."""

    n: Floats
    weight: Floats
    residual: Floats

    def merged(self, starts: Ints) -> "ClusterSums":
        """The same by clusters of clusters: those from one of ``starts`` to the next."""
        return ClusterSums(*(np.add.reduceat(each, starts, axis=1) for each in self))


class Base(NamedTuple):
    """Of m differences, arrays (m,): the ``effect`` D, its ``variance`` where trades are independent, with the degrees
    of ``freedom`` of that, the variance ``scatter`` of the residuals, and the sum of ``squares`` of the weights with
    which trades enter D."""

    effect: Floats
    variance: Floats
    freedom: Floats
    scatter: Floats
    squares: Floats


class Part(NamedTuple):
    """What the luck of one clustering adds to m differences, arrays (m,): ``clusters`` that there are, how many of them
    the difference ``effective``ly rests on, the ``variance`` that is added with its degrees of ``freedom``; ``unknown``
    where there are too few clusters to tell."""

    clusters: Ints
    effective: Floats
    variance: Floats
    freedom: Floats
    unknown: Bools


class Luck(NamedTuple):
    """Of m differences, arrays (m,): ``p`` and ``half_width`` of the interval with the luck of symbols and of the
    period for which p is largest, whose place among the periods is ``period``. Where there are too few clusters to
    tell, p is 1 and the interval unbounded."""

    p: Floats
    half_width: Floats
    period: Ints
    error: Floats
    freedom: Floats


def part(sums: ClusterSums, base: Base, mining: MiningPolicy) -> Part:
    """Estimate the luck of one clustering.

    Cluster g of N_g trades has mean residual m_g and weighs ``1 / (1/N_g + luck_variance)``; the variance of luck is
    what the weighted variance of the means exceeds its expectation by (moments, never below 0). D takes it with the
    sum of squares of the clusters' weights.
    """
    n, a, residual = sums
    with np.errstate(all="ignore"):
        clusters = (n > 0).sum(axis=1)
        w = n / (1.0 + mining.luck_variance * n)
        total = w.sum(axis=1)
        effective = total**2 / (w * w).sum(axis=1)
        mean = np.where(n > 0, residual / n, 0.0)
        middle = (w * mean).sum(axis=1) / total
        between = (w * np.square(mean - middle[:, None])).sum(axis=1)
        between *= np.maximum(effective - 1, 0.5) / np.maximum(effective - 2, 0.5)
        free = w * (1 - w / total[:, None])
        expected = base.scatter * np.where(n > 0, free / n, 0.0).sum(axis=1)
        luck = np.maximum(0.0, (between - expected) / free.sum(axis=1))
        luck = np.where(base.scatter > 0, luck, 0.0)  # without residuals, the rest is rounding
        aa = a * a
        contrast = aa.sum(axis=1)
        rests_on = contrast**2 / (aa * aa).sum(axis=1)
        none = (contrast <= NO_CONTRAST * base.squares) | (clusters < 2)
        two = ~none & (clusters == 2)
        variance = np.where(none | two, 0.0, luck * contrast)
        freedom = np.minimum(clusters - 2.0, rests_on - 1)
    return Part(clusters, np.where(none, 0.0, rests_on), variance, freedom, two & (contrast > base.squares))


def confined(sums: ClusterSums, symbols: Part, base: Base, mining: MiningPolicy) -> Bools:
    """Which differences (m,) are confined to too few symbols to tell the luck of these from anything else."""
    with np.errstate(all="ignore"):
        between = np.where(sums.n > 0, sums.weight**2 / sums.n, 0.0).sum(axis=1)
    rests_on = between > mining.max_symbol_share * base.squares
    few: Bools = (symbols.freedom < mining.min_symbol_freedom) & rests_on
    return few


def weighed(base: Base, symbols: Part, few_symbols: Bools, periods: list[Part], level: float) -> Luck:
    """The p with the luck of symbols and of each of the ``periods`` in turn: the largest, and the widest interval.

    The degrees of freedom of the sum of variances are Satterthwaite's (1946). ``level`` of the interval: share of 1.
    """
    p, half_width, error, freedom = [], [], [], []
    with np.errstate(all="ignore"):
        for period in periods:
            variance = base.variance + symbols.variance + period.variance
            parts = (base, symbols, period)
            below = sum(np.where(each.variance > 0, each.variance**2 / each.freedom, 0.0) for each in parts)
            free = np.where(below > 0, variance**2 / below, np.inf)
            root = np.sqrt(variance)
            unknown = few_symbols | symbols.unknown | period.unknown
            t = np.where(base.effect == 0, 0.0, np.abs(base.effect) / root)
            p.append(np.where(unknown, 1.0, student_p(t, free)))
            half_width.append(np.where(unknown, np.inf, t_half_width(root, free, level)))
            error.append(root)
            freedom.append(free)
    of_all = np.array(p)
    largest, rows = of_all.argmax(axis=0), np.arange(of_all.shape[1])
    return Luck(
        of_all[largest, rows],
        np.max(half_width, axis=0),
        largest,
        np.array(error)[largest, rows],
        np.array(freedom)[largest, rows],
    )
