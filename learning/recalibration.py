"""Recalibration: a map from a producer's stated confidence to the share that comes true, tested on later outcomes."""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from closeloop.learning.intervals import t_half_width
from closeloop.learning.scoring import brier
from closeloop.learning.significance import clustered_error
from closeloop.models.policy import ProducersPolicy

_FOLDS: Final = 5  # into which the newer half of a history is cut; each is mapped by what had elapsed before it
_MIN_CLUSTERS: Final = 5  # periods below which a variance between them says little
_TWO_SIDED_LEVEL: Final = 0.90  # level of the interval of which the lower end is the one-sided 95 % bound
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True)
class IsotonicMap:
    """A monotone map of confidences: linear between the break points (x, y), constant beyond the first and last."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """The recalibrated confidences."""
        return np.interp(confidence, self.x, self.y)


@dataclass(frozen=True)
class Recalibration:
    """A map fitted to the whole history, and the evidence, from forward folds, whether to use it.

    ``gain``: mean of Brier score as said minus Brier score as mapped, out of sample (positive: the map is better), over
    ``tested`` outcomes; ``gain_se`` its standard error, clustered by ``clusters`` periods of ``cluster_days``;
    ``gain_low`` its one-sided 95 % lower bound (Student's t, clusters - 1 degrees of freedom). ``adopted`` where that
    is above 0. None where there was nothing to compute; ``reason`` says why, in words.
    """

    outcomes: int
    map: IsotonicMap | None
    tested: int
    clusters: int
    cluster_days: float
    brier_before: float | None
    brier_after: float | None
    gain: float | None
    gain_se: float | None
    gain_low: float | None
    adopted: bool
    reason: Literal["better_out_of_sample", "not_better_out_of_sample", "too_few_outcomes", "too_few_days"]


def isotonic_map(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> IsotonicMap:
    """Isotonic regression of correctness on confidence (Zadrozny & Elkan 2002), at least one outcome.

    The output lies in [1/(n + 2), 1 - 1/(n + 2)] for n outcomes: no history makes a certainty.
    """
    n = len(confidence)
    said, inverse, times = np.unique(confidence, return_inverse=True, return_counts=True)
    came_true = np.bincount(inverse, weights=correct) / times
    fitted = optimize.isotonic_regression(came_true, weights=times)
    # A block of equal values needs its two ends only.
    starts = fitted.blocks[:-1]
    ends = fitted.blocks[1:] - 1
    kept = np.unique(np.concatenate([starts, ends]))
    y = np.clip(fitted.x[kept], 1 / (n + 2), 1 - 1 / (n + 2))
    return IsotonicMap(tuple(said[kept].tolist()), tuple(y.tolist()))


def recalibrate(
    issued_at: NDArray[np.int64],
    target_at: NDArray[np.int64],
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    as_of: int,
    producers: ProducersPolicy,
) -> Recalibration:
    """Fit a producer's map to what elapsed by ``as_of``, and test it forward. Times in microseconds since 1970 (UTC).

    From half of the history (by issue) on, five folds of equal size: each is mapped by what had elapsed
    (``target_at`` at or before) when its first forecast was issued. Outcomes of a day share what the market did, and
    overlapping ones share more: the error of the paired difference is clustered by periods of a day, or of the longest
    horizon where that is longer (cluster-robust variance with the G/(G-1) correction, Liang & Zeger 1986).
    """
    elapsed = np.flatnonzero(target_at <= as_of)
    order = elapsed[np.argsort(issued_at[elapsed], kind="stable")]
    issued_at, target_at, confidence, correct = issued_at[order], target_at[order], confidence[order], correct[order]
    n, min_outcomes = len(order), producers.recalibration_min_outcomes
    period = max(_DAY_US, int((target_at - issued_at).max(initial=0)))
    untested = Recalibration(
        outcomes=n,
        map=None,
        tested=0,
        clusters=0,
        cluster_days=period / _DAY_US,
        brier_before=None,
        brier_after=None,
        gain=None,
        gain_se=None,
        gain_low=None,
        adopted=False,
        reason="too_few_outcomes",
    )
    if n < min_outcomes:
        return untested
    fitted = isotonic_map(confidence, correct)
    mapped = np.full(n, np.nan)
    for fold in np.array_split(np.arange(n // 2, n), _FOLDS):
        known = target_at <= issued_at[fold[0]] if len(fold) else np.zeros(n, np.bool_)
        if known.sum() >= min_outcomes // 2:
            mapped[fold] = isotonic_map(confidence[known], correct[known])(confidence[fold])
    tested = ~np.isnan(mapped)
    clusters, cluster = np.unique(issued_at[tested] // period, return_inverse=True)
    found = replace(untested, map=fitted, tested=int(tested.sum()), clusters=len(clusters), reason="too_few_days")
    if len(clusters) < _MIN_CLUSTERS:
        return found
    before = brier(confidence[tested], correct[tested])
    after = brier(mapped[tested], correct[tested])
    gains = before - after
    gain = float(gains.mean())
    se = float(clustered_error(np.bincount(cluster, weights=gains - gain) / len(gains), len(clusters)))
    low = gain - float(t_half_width(se, len(clusters) - 1, _TWO_SIDED_LEVEL))
    return replace(
        found,
        brier_before=float(before.mean()),
        brier_after=float(after.mean()),
        gain=gain,
        gain_se=se,
        gain_low=low,
        adopted=low > 0,
        reason="better_out_of_sample" if low > 0 else "not_better_out_of_sample",
    )
