"""How fast an edge fades: the half-life of the effect of a lesson."""

import numpy as np
from numpy.typing import NDArray

from models.policy import LearningPolicy


def half_life(entered_at: NDArray[np.float64], excess: NDArray[np.float64], policy: LearningPolicy) -> float | None:
    """Half-life in hours of the edge of a lesson's trades; None where no decay is seen.

    ``entered_at`` (n,) in seconds, ``excess`` (n,) in R: rr minus the mean of the trades outside the lesson.
    """
    raise NotImplementedError
