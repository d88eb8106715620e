"""Timeframe coefficients: which timeframes have lately earned more R than all together."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.policy import LearningPolicy


@dataclass(frozen=True)
class DecayedMean:
    """A mean in which a trade counts e^(-age / tau): ``s`` = sum of weighted R, ``w`` = sum of weights, both as at
    ``t_ref`` (seconds since 1970, the newest trade), of ``n`` trades."""

    s: float = 0.0
    w: float = 0.0
    t_ref: float | None = None
    n: int = 0

    @property
    def value(self) -> float | None:
        """The mean (R); None without trades."""
        raise NotImplementedError

    @classmethod
    def of(cls, rr: NDArray[np.float64], at: NDArray[np.float64], tau_days: float) -> Self:
        """Of many trades: ``rr`` (n,) in R, ``at`` (n,) their times of closing in seconds."""
        raise NotImplementedError

    def merged(self, other: "DecayedMean", tau_days: float) -> "DecayedMean":
        """Of the trades of both, in either order."""
        raise NotImplementedError


def after(
    state: DecayedMean, rr: NDArray[np.float64], at: NDArray[np.float64], tau_days: float, policy: LearningPolicy
) -> DecayedMean:
    """The state after these trades, by the policy's method. ``decayed_mean``: in any order; ``seed``: by (at, rr)."""
    raise NotImplementedError


def weight(timeframe: DecayedMean, everything: DecayedMean, policy: LearningPolicy) -> float:
    """Weight of a timeframe from its short memory and that of all timeframes together."""
    raise NotImplementedError
