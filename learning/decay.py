"""How fast an edge fades: the half-life of a lesson's effect, and what is left of it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from closeloop.models.policy import DecayPolicy

_GRID_STEPS = 64  # half-lives that are tried; from a day to half a year neighbours are about 8 % apart


class EffectNow(NamedTuple):
    """What is left of an effect at an instant, with its interval. In R."""

    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Fading:
    """An edge of ``start`` R at ``first_entry`` (seconds) that halves each ``half_life_hours``."""

    half_life_hours: float
    first_entry: float
    start: float
    standard_error: float  # of start, in R
    n: int

    def left(self, instant: float, level: float) -> EffectNow:
        """What is left at ``instant`` (seconds), with its interval of ``level``, by Student's t of n - 2 degrees.

        The half-life is taken as known: the interval is that of the fitted start alone.
        """
        share = float(np.exp2(-(instant - self.first_entry) / 3600.0 / self.half_life_hours))
        half_width = float(stats.t.ppf((1 + level) / 2, self.n - 2)) * self.standard_error
        return EffectNow(share * self.start, share * (self.start - half_width), share * (self.start + half_width))


def fading(entered_at: NDArray[np.float64], excess: NDArray[np.float64], decay: DecayPolicy) -> Fading | None:
    """How the edge of a lesson's trades fades; None where no decay is seen.

    Fits ``excess = a * 2^(-t / h)`` by least squares: for each h of a logarithmic grid the best a has a closed form
    (variable projection, Golub & Pereyra 1973), and the h with the smallest sum of squared errors wins. It is
    reported where it beats a constant by the likelihood ratio ``n ln(SSE_constant / SSE_h)``. The standard error of a,
    h taken as known, is ``sqrt(s^2 / sum 4^(-t / h))`` with ``s^2 = SSE / (n - 2)``. ``entered_at`` (n,) in seconds,
    ``excess`` (n,) in R: rr minus the mean of the trades outside the lesson.

    >>> t = np.arange(0.0, 4000.0, 10.0)  # hours
    >>> found = fading(t * 3600, 2.0 * 0.5 ** (t / 200.0), DecayPolicy())
    >>> round(found.half_life_hours), round(found.start, 1)
    (205, 2.0)
    """
    n = len(excess)
    if n < 3:
        return None
    constant = float(np.square(excess - excess.mean()).sum())
    squares = float(np.square(excess).sum())
    if constant <= 1e-12 * squares:
        return None  # constant up to rounding: nothing fades
    hours = (entered_at - entered_at.min()) / 3600.0
    grid = np.geomspace(decay.shortest_hours, decay.longest_hours, _GRID_STEPS)
    errors = np.empty(_GRID_STEPS)
    for step, h in enumerate(grid):
        left = np.exp2(-hours / h)
        errors[step] = squares - float((left * excess).sum()) ** 2 / float(np.square(left).sum())
    best = int(errors.argmin())
    error = max(float(errors[best]), 1e-12 * squares)
    if n * math.log(constant / error) <= decay.min_evidence:
        return None
    h = float(grid[best])
    left = np.exp2(-hours / h)
    weight = float(np.square(left).sum())
    return Fading(
        half_life_hours=h,
        first_entry=float(entered_at.min()),
        start=float((left * excess).sum()) / weight,
        standard_error=math.sqrt(error / (n - 2) / weight),
        n=n,
    )
