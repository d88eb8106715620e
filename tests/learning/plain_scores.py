"""What calibration says of outcomes, from the outcomes themselves in plain Python: nothing of the project's."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import correlation, fmean

import numpy as np
from numpy.typing import NDArray

Outcome = tuple[float, bool]
"""(confidence, correct)"""


def bin_of(p: float) -> int:
    return max(k for k in range(10) if k == 0 or p >= k / 10)


def in_bins(outcomes: Sequence[Outcome]) -> dict[int, list[Outcome]]:
    return {
        k: [x for x in outcomes if bin_of(x[0]) == k] for k in range(10) if any(bin_of(p) == k for p, _ in outcomes)
    }


def log_score(p: float, o: bool) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return -math.log(p if o else 1 - p)


def scores(outcomes: Sequence[Outcome]) -> dict[str, float]:
    n = len(outcomes)
    rate = fmean(o for _, o in outcomes)
    bins = [(len(b), fmean(p for p, _ in b), fmean(o for _, o in b), b) for b in in_bins(outcomes).values()]
    return {
        "hit_rate": rate,
        "mean_confidence": fmean(p for p, _ in outcomes),
        "brier": math.fsum((p - o) ** 2 for p, o in outcomes) / n,
        "reliability": math.fsum(m * (p - o) ** 2 for m, p, o, _ in bins) / n,
        "resolution": math.fsum(m * (o - rate) ** 2 for m, _, o, _ in bins) / n,
        "uncertainty": rate * (1 - rate),
        "within_bin_variance": math.fsum((p - mean) ** 2 for _, mean, _, b in bins for p, _ in b) / n,
        "within_bin_covariance": 2 * math.fsum((p - mean) * (o - hit) for _, mean, hit, b in bins for p, o in b) / n,
        "log_score": fmean(log_score(p, o) for p, o in outcomes),
        "calibration_error": math.fsum(m * abs(p - o) for m, p, o, _ in bins) / n,
    }


def standard_error(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def confidence_correlation(outcomes: Sequence[Outcome]) -> float | None:
    if len({p for p, _ in outcomes}) < 2 or len({o for _, o in outcomes}) < 2:
        return None
    return correlation([p for p, _ in outcomes], [float(o) for _, o in outcomes])


def isotonic(outcomes: Sequence[Outcome]) -> Callable[[float], float]:
    """Pool adjacent violators, one block at a time; linear between what was seen, clipped to [1/(n+2), 1-1/(n+2)]."""
    blocks: list[list[float]] = []  # sum, count, first, last
    for p, same in groupby(sorted(outcomes), key=lambda x: x[0]):
        hits = [o for _, o in same]
        blocks.append([sum(hits), len(hits), p, p])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total, count, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count, blocks[-1][2], last]
    n = len(outcomes)
    points = [(x, min(max(b[0] / b[1], 1 / (n + 2)), 1 - 1 / (n + 2))) for b in blocks for x in (b[2], b[3])]

    def mapped(p: float) -> float:
        below = [point for point in points if point[0] <= p]
        above = [point for point in points if point[0] >= p]
        if not below:
            return above[0][1]
        if not above:
            return below[-1][1]
        (x0, y0), (x1, y1) = below[-1], above[0]
        return y0 if x0 == x1 else y0 + (y1 - y0) * (p - x0) / (x1 - x0)

    return mapped


def overlaps(
    stream: NDArray[np.int64], target_at: NDArray[np.int64], horizon: NDArray[np.int64] | int
) -> NDArray[np.float64]:
    """What each outcome shares with itself, once, with those of its time, once, and with earlier ones, twice.

    In parts of the horizon, as the SQL of store/performance.py computes it.
    """
    lengths = np.broadcast_to(np.asarray(horizon), stream.shape)
    found = np.empty(len(stream))
    for one in np.unique(stream):
        mine = np.flatnonzero(stream == one)
        apart = (target_at[mine][:, None] - target_at[mine]) / lengths[mine][:, None]
        found[mine] = (np.clip(1 - apart, 0, 1) * np.where(apart > 0, 2, apart == 0)).sum(axis=1)
    return found
