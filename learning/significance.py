"""Significance: p-values of Student's t, of a difference of means, with errors clustered, and of many tests at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from closeloop.learning.intervals import normal_half_width, t_half_width

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def benjamini_hochberg(p: Floats) -> Floats:
    """q-value of each of the tests with these ``p`` (m,): the false discovery rate at which it is just rejected.

    Benjamini & Hochberg (1995), "Controlling the false discovery rate": the smallest ``p_(j) m / j`` over the ranks
    ``j`` from the test's own on, at most 1.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(4).tolist()
    [0.03, 0.04, 0.04]
    """
    order = np.argsort(p, kind="stable")
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return q


def benjamini_yekutieli(p: Floats) -> Floats:
    """q-value of each test, whatever way the tests depend on each other.

    Benjamini & Yekutieli (2001, The Annals of Statistics 29): that of Benjamini & Hochberg times 1 + 1/2 + ... + 1/m,
    at most 1.

    >>> benjamini_yekutieli(np.array([0.01, 0.04, 0.03])).round(4).tolist()
    [0.055, 0.0733, 0.0733]
    """
    harmonic = float((1.0 / np.arange(1, len(p) + 1)).sum())
    return np.minimum(benjamini_hochberg(p) * harmonic, 1.0) if len(p) else p


def student_p(t: Floats | float, freedom: Floats | float) -> Floats:
    """Two-sided p of Student's t with these degrees of freedom (Student 1908).

    >>> round(float(student_p(2.0, 10.0)), 4)
    0.0734
    """
    p: Floats = 2 * special.stdtr(freedom, -np.abs(t))
    return p


def normal_p(z: Floats | float) -> Floats:
    """Two-sided p of a standard normal.

    >>> round(float(normal_p(1.959964)), 4)
    0.05
    """
    p: Floats = 2 * special.ndtr(-np.abs(z))
    return p


def clustered_error(added: Floats, clusters: Floats | float) -> Floats:
    """Standard error of a sum whose terms may depend on each other within a cluster, and not between clusters.

    ``added`` (..., g): what each cluster adds to the estimate's deviation from its mean; ``clusters`` (...): how many
    of them count, G. The error is ``sqrt(sum of squares * G / (G - 1))`` (Liang & Zeger 1986; the factor corrects for
    few clusters, as in Cameron & Miller 2015, section II.C), and its t has G - 1 degrees of freedom. NaN or infinite
    for a single cluster.

    >>> float(clustered_error(np.array([0.3, -0.3]), 2.0).round(4))
    0.6
    """
    with np.errstate(all="ignore"):
        error: Floats = np.sqrt(np.square(added).sum(axis=-1) * clusters / (np.asarray(clusters) - 1))
    return error


class Moments(NamedTuple):
    """Of the values of a sample (or of an array of samples): how many, their mean, and sum of squared deviations."""

    n: Floats
    mean: Floats
    deviations: Floats


class Difference(NamedTuple):
    """Tested differences of means, arrays (m,): ``effect``, the size of Welch's ``t``, the two-sided ``p`` (the larger
    one of two tests), and ``half_width`` of the effect's interval; ``variance`` of the effect (the larger one of both
    tests'), Welch's degrees of ``freedom``, and ``scatter``, the variance of the values about the means of their sides.
    """

    effect: Floats
    t: Floats
    p: Floats
    half_width: Floats
    variance: Floats
    freedom: Floats
    scatter: Floats


def difference_of_means(inside: Moments, outside: Moments, usable: Bools, rounding: float, level: float) -> Difference:
    """Test the differences of m pairs of samples, each cut into the same c strata; all arrays are (m, c).

    Strata that are not ``usable`` are left out; the others weigh ``n1 n0 / (n1 + n0)``, as in a regression with an
    effect for each stratum. p is the larger one of two: of Welch's t test (1947), stratified, with Satterthwaite's
    degrees of freedom (1946), and of the z test with the variance pooled within each stratum. Welch's test alone would
    be certain of the difference of a small sample that happens not to vary. ``half_width`` is the larger one of theirs
    at ``level`` (a share of 1). An effect of at most ``rounding`` is none.

    NaN where nothing is usable; where neither side varies, an effect is a certainty (p = 0).

    >>> one = Moments(np.array([[4.0]]), np.array([[2.5]]), np.array([[5.0]]))
    >>> other = Moments(np.array([[4.0]]), np.array([[0.5]]), np.array([[5.0]]))
    >>> found = difference_of_means(one, other, np.array([[True]]), 0.0, 0.95)
    >>> found.effect.tolist(), found.p.round(4).tolist()
    ([2.0], [0.071])
    """
    n1, m1, d1 = inside
    n0, m0, d0 = outside
    with np.errstate(all="ignore"):
        w = np.where(usable, n1 * n0 / (n1 + n0), 0.0)
        total = w.sum(axis=1)
        effect = np.where(usable, w * (m1 - m0), 0.0).sum(axis=1) / total
        e1, e0 = w * w * d1 / ((n1 - 1) * n1), w * w * d0 / ((n0 - 1) * n0)
        welch = np.where(usable, e1 + e0, 0.0).sum(axis=1)
        free = welch**2 / np.where(usable, e1**2 / (n1 - 1) + e0**2 / (n0 - 1), 0.0).sum(axis=1)
        free = np.where(np.isfinite(free), free, np.inf)
        pooled = np.where(usable, w * (d1 + d0) / (n1 + n0 - 2), 0.0).sum(axis=1)
        error_t, error_z = np.sqrt(welch) / total, np.sqrt(pooled) / total
        size = np.abs(effect)
        t = np.where(size <= rounding, 0.0, size / error_t)
        z = np.where(size <= rounding, 0.0, size / error_z)
        p = np.maximum(student_p(t, free), normal_p(z))
        half_width = np.maximum(t_half_width(error_t, free, level), normal_half_width(error_z, level))
        variance = np.square(np.maximum(error_t, error_z))
        residual = np.where(usable, n1 + n0 - 2, 0.0).sum(axis=1)
        scatter = np.where(usable, d1 + d0, 0.0).sum(axis=1) / residual
    return Difference(effect, t, p, half_width, variance, free, scatter)
