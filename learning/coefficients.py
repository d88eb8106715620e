"""Timeframe coefficients: which timeframes have lately earned more R than all together."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from closeloop.models.policy import CoefficientsPolicy

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class DecayedMean:
    """A mean in which a trade counts e^(-age / tau): ``s`` = sum of weighted R, ``w`` = sum of weights, both as at
    ``t_ref`` (seconds since 1970, the newest trade), of ``n`` trades.

    >>> DecayedMean.of(np.array([1.0, 3.0]), np.array([0.0, 0.0]), tau_days=14).value
    2.0
    """

    s: float = 0.0
    w: float = 0.0
    t_ref: float | None = None
    n: int = 0

    @property
    def value(self) -> float | None:
        """The mean (R); None without trades."""
        return self.s / self.w if self.n else None

    @classmethod
    def of(cls, rr: NDArray[np.float64], at: NDArray[np.float64], tau_days: float) -> Self:
        """Of many trades: ``rr`` (n,) in R, ``at`` (n,) their times of closing in seconds."""
        if not len(rr):
            return cls()
        newest = float(at.max())
        weights = np.exp((at - newest) / (tau_days * _DAY_SECONDS))
        # Summed exactly: in whatever order the trades come.
        return cls(math.fsum(weights * rr), math.fsum(weights), newest, len(rr))

    def merged(self, other: "DecayedMean", tau_days: float) -> "DecayedMean":
        """Of the trades of both, in either order (equal up to rounding): the older one is aged to the newer one."""
        if self.t_ref is None or other.t_ref is None:
            return other if self.t_ref is None else self
        newest = max(self.t_ref, other.t_ref)
        mine = math.exp((self.t_ref - newest) / (tau_days * _DAY_SECONDS))
        theirs = math.exp((other.t_ref - newest) / (tau_days * _DAY_SECONDS))
        return DecayedMean(self.s * mine + other.s * theirs, self.w * mine + other.w * theirs, newest, self.n + other.n)


def after(
    state: DecayedMean,
    rr: NDArray[np.float64],
    at: NDArray[np.float64],
    tau_days: float,
    coefficients: CoefficientsPolicy,
) -> DecayedMean:
    """The state after these trades, each of which is given once, by the policy's method.

    ``decayed_mean``: in any order. ``seed`` (docs/algorithms.md, section 10): ``w = e^(-age / tau)``,
    ``alpha = w / (w + 1)``, ``value += alpha (rr - value)``, in the order of (at, rr), the age as at the newest trade
    seen; ``s`` is the value.
    """
    if coefficients.method == "decayed_mean":
        return state.merged(DecayedMean.of(rr, at, tau_days), tau_days)
    value, newest, n = state.value, state.t_ref, state.n
    for index in np.lexsort((rr, at)):
        newest = float(at[index]) if newest is None else max(newest, float(at[index]))
        w = math.exp((float(at[index]) - newest) / (tau_days * _DAY_SECONDS))
        value = float(rr[index]) if value is None else value + w / (w + 1) * (float(rr[index]) - value)
        n += 1
    return state if value is None else DecayedMean(value, 1.0, newest, n)


def weight(timeframe: DecayedMean, everything: DecayedMean, coefficients: CoefficientsPolicy) -> float:
    """Weight of a timeframe from its short memory and that of all timeframes together; 1 without trades.

    ``decayed_mean``: 1 + the difference of the means, shrunk by n / (n + shrink_trades). ``seed``: their ratio; 1 where
    either is not positive, and the ratio means nothing. Both are clamped.
    """
    own, all_ = timeframe.value, everything.value
    if own is None or all_ is None:
        return 1.0
    if coefficients.method == "decayed_mean":
        raw = 1.0 + (own - all_) * timeframe.n / (timeframe.n + coefficients.shrink_trades)
    else:
        raw = own / all_ if own > 0 and all_ > 0 else 1.0
    return min(max(raw, coefficients.min_weight), coefficients.max_weight)
