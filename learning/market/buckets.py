"""How buckets do against each other, from their own indices, where an engine does not say (docs/algorithms.md,
section 14)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from closeloop.learning.market.bars import Bars
from closeloop.models.market import BUCKETS
from closeloop.models.market_levers import BucketContext
from closeloop.models.market_policy import LeversPolicy

HOUR = 3_600
_DAY = 86_400.0


@dataclass(frozen=True)
class Move:
    """A member's price where the window begins, and its newest price in it."""

    before: float
    newest: float


def standing(
    bucket: str, indices: Mapping[str, Bars], members: Mapping[str, Move], as_of: int, policy: LeversPolicy
) -> BucketContext | None:
    """How ``bucket`` does among the buckets at second ``as_of``; None where its index has too few hours to say.

    ``indices``: hours of the buckets' indices by name, whatever part of the window there is; ``members``: what the
    bucket's own did in it. Of the last ``context_hours`` that ended by ``as_of``:

    - *rank*: 1 is the bucket whose index rose most (ln of last close by first open), among those with at least
      ``context_min_share`` of the hours; of equals the smaller caps come first.
    - *slope*: of a straight line through ln(close), in points a day, within [-1, 1].
    - *confidence*: the share of hours that there are x |members that rose - members that fell| / members. An index that
      a few members carry is not trusted, and neither is one whose members do not agree.
    - *leader*: the member that rose most; None without members.
    """
    windows = {str(name): _window(indices[name], as_of, policy) for name in BUCKETS if name in indices}
    least = policy.context_min_share * policy.context_hours
    rose = {name: _rise(bars) for name, bars in windows.items() if len(bars) and len(bars) >= least}
    if bucket not in rose:
        return None
    ranked = sorted(rose, key=lambda name: -rose[name])  # stable: of equals the first of BUCKETS
    returns = {name: math.log(move.newest / move.before) for name, move in sorted(members.items())}
    agreement = abs(float(np.sign(list(returns.values())).sum())) / len(returns) if returns else 0.0
    return BucketContext(
        rank=ranked.index(bucket) + 1,
        slope=_slope(windows[bucket]),
        confidence=len(windows[bucket]) / policy.context_hours * agreement,
        leader=max(returns, key=lambda name: returns[name]) if returns else None,
    )


def _window(hours: Bars, as_of: int, policy: LeversPolicy) -> Bars:
    """The hours of the window that have ended."""
    end = as_of // HOUR * HOUR
    return hours[(hours.start + HOUR <= end) & (hours.start >= end - policy.context_hours * HOUR)]


def _rise(bars: Bars) -> float:
    return math.log(bars.close[-1] / bars.open[0])


def _slope(bars: Bars) -> float:
    """Least squares through ln(close), a day, within [-1, 1]; 0 of a single bar."""
    days = (bars.start - bars.start[0]) / _DAY
    x = days - days.mean()
    squares = float(x @ x)
    raw = float(x @ np.log(bars.close)) / squares if squares > 0 else 0.0
    return min(max(raw, -1.0), 1.0)
