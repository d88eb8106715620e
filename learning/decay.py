"""How fast an edge fades: the half-life of a lesson's effect."""

import math

import numpy as np
from numpy.typing import NDArray

from closeloop.models.policy import DecayPolicy

_GRID_STEPS = 64  # half-lives that are tried; from a day to half a year neighbours are about 8 % apart


def half_life(entered_at: NDArray[np.float64], excess: NDArray[np.float64], decay: DecayPolicy) -> float | None:
    """Half-life in hours of the edge of a lesson's trades; None where no decay is seen.

    Fits ``excess = a * 2^(-t / h)`` by least squares: for each h of a logarithmic grid the best a has a closed form
    (variable projection, Golub & Pereyra 1973), and the h with the smallest sum of squared errors wins. It is
    reported where it beats a constant by the likelihood ratio ``n ln(SSE_constant / SSE_h)``. ``entered_at`` (n,) in
    seconds, ``excess`` (n,) in R: rr minus the mean of the trades outside the lesson.

    >>> t = np.arange(0.0, 4000.0, 10.0)  # hours
    >>> round(half_life(t * 3600, 2.0 * 0.5 ** (t / 200.0), DecayPolicy()))
    205
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
        fading = np.exp2(-hours / h)
        errors[step] = squares - float((fading * excess).sum()) ** 2 / float(np.square(fading).sum())
    best = int(errors.argmin())
    error = max(float(errors[best]), 1e-12 * squares)
    return float(grid[best]) if n * math.log(constant / error) > decay.min_evidence else None
