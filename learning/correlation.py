"""Pearson's correlation: of two series, and of moments that were added up."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from closeloop.learning.significance import student_p

Floats = NDArray[np.float64]

_ROUNDING_VARIANCE = 1e-24  # a variance up to this (in squared units of the values) is rounding of equal values


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r (1895) of the pairs of ``x`` and ``y``, (n,) each; NaN where either does not vary.

    Summed exactly, so that it is the same number in whatever order the pairs come.

    >>> pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.5]).__round__(4)
    0.9979
    >>> pearson([1.0, 1.0, 1.0], [2.0, 4.0, 6.0])
    nan
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = len(x)
    if n == 0:
        return math.nan
    x, y = x - math.fsum(x) / n, y - math.fsum(y) / n
    xx, yy = math.fsum(x * x), math.fsum(y * y)
    if xx <= n * _ROUNDING_VARIANCE or yy <= n * _ROUNDING_VARIANCE:
        return math.nan
    return float(pearson_of(math.fsum(x * y), xx, yy))


def pearson_of(covariance: Floats | float, variance_x: Floats | float, variance_y: Floats | float) -> Floats:
    """Pearson's r of each covariance with the two variances, or of their sums, within [-1, 1]; NaN where one is 0.

    >>> pearson_of(np.array([0.5, 0.0]), np.array([1.0, 0.0]), np.array([1.0, 1.0])).tolist()
    [0.5, nan]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        r: Floats = np.clip(covariance / np.sqrt(np.asarray(variance_x * variance_y)), -1.0, 1.0)
    return r


def correlation_p(r: float, n: int) -> float:
    """Two-sided p of a correlation of ``n`` > 2 pairs, by Student's t test of r = 0 with n - 2 degrees of freedom.

    >>> round(correlation_p(0.5, 12), 4)
    0.0979
    """
    if abs(r) == 1.0:
        return 0.0
    return float(student_p(r * math.sqrt((n - 2) / (1 - r * r)), n - 2))
