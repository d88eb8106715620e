"""Intervals: of proportions, of means, and of correlations."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
"""Standard errors on each side of a normal 95 % interval."""


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float] | None:
    """Wilson's score interval for a proportion (Wilson 1927), 95 % by default; None without trials.

    Raises ValueError unless 0 <= successes <= trials.

    >>> [round(x, 4) for x in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return None
    low, high = wilson_intervals(np.array(successes / trials), np.array(float(trials)), z)
    return float(low), float(high)


def wilson_intervals(rate: Floats, trials: Floats, z: float = Z95) -> tuple[Floats, Floats]:
    """Wilson's interval of each ``rate`` over its number of independent ``trials``, arrays of one shape.

    At 0 and 1 it touches these exactly: rounding does not carry it past them. NaN where the rate is, or without trials.

    >>> [end.round(4).tolist() for end in wilson_intervals(np.array([0.8, 1.0]), np.array([10.0, 0.0]))]
    [[0.4902, nan], [0.9433, nan]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1.0 + z * z / trials
        centre = (rate + z * z / (2 * trials)) / scale
        half = z / scale * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
        low = np.where(rate == 0.0, 0.0, np.maximum(0.0, centre - half))
        high = np.where(rate == 1.0, 1.0, np.minimum(1.0, centre + half))
        return np.where(trials > 0, low, np.nan), np.where(trials > 0, high, np.nan)


def t_half_width(error: Floats | float, freedom: Floats | float, level: float) -> Floats:
    """Half of Student's interval of an estimate with this standard error, at ``level`` (a share of 1), two-sided.

    >>> round(float(t_half_width(1.0, 10.0, 0.95)), 4)
    2.2281
    """
    half: Floats = special.stdtrit(freedom, (1 + level) / 2) * error
    return half


def normal_half_width(error: Floats | float, level: float) -> Floats:
    """The same with a normal law.

    >>> round(float(normal_half_width(1.0, 0.95)), 4)
    1.96
    """
    half: Floats = special.ndtri((1 + level) / 2) * error
    return half


def fisher_interval(r: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval of Pearson's correlation ``r`` of ``n`` > 3 pairs, by Fisher's z (Fisher 1921), 95 % by default.

    At r of -1 or 1 it has no width.

    >>> [round(x, 4) for x in fisher_interval(0.5, 28)]
    [0.156, 0.7358]
    """
    if abs(r) == 1.0:
        return r, r
    half = z / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
