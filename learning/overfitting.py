"""Overfitting protection: has performance fallen, cycle after cycle, since the weights were learned?

Performance that is pure noise also falls three times in a row: about every 28 cycles under learned weights the rule
reverts to the preset although nothing is wrong (every 29 in the simulation of the tests). The rule accepts that, since
a revert to the preset is safe. The other rule is in learning/guard.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from closeloop.models.policy import WeightsPolicy


@dataclass(frozen=True)
class ClosedTrade:
    """What a cycle looks at of a position: its PnL in money, and in R where the risk is known."""

    pnl: float
    rr: float | None


@dataclass(frozen=True)
class CycleTrade(ClosedTrade):
    """The same with what is learned from: whether it ``won``, its domain scores, and ``side``: -1 where a score spoke
    for the trade by being negative, else +1."""

    side: int = 1
    won: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CyclePerformance:
    """Mean outcome of a cycle's positions: ``mean_r`` only where every one of them has R."""

    n: int
    mean_pnl: float | None
    mean_r: float | None


def cycle_performance(trades: Sequence[ClosedTrade]) -> CyclePerformance:
    """Mean PnL and mean R of the positions that were opened and closed under one version of the weights.

    >>> cycle_performance([ClosedTrade(10.0, 2.0), ClosedTrade(-5.0, None)])
    CyclePerformance(n=2, mean_pnl=2.5, mean_r=None)
    """
    n = len(trades)
    if n == 0:
        return CyclePerformance(0, None, None)
    known = [trade.rr for trade in trades if trade.rr is not None]
    mean_r = math.fsum(known) / n if len(known) == n else None
    return CyclePerformance(n, math.fsum(trade.pnl for trade in trades) / n, mean_r)


def is_lower(current: CyclePerformance, earlier: CyclePerformance) -> bool:
    """Whether performance fell: in R if every position of both cycles has it, otherwise in money.

    Raises ValueError if a cycle has no positions.
    """
    if current.mean_r is not None and earlier.mean_r is not None:
        return current.mean_r < earlier.mean_r
    if current.mean_pnl is None or earlier.mean_pnl is None:
        raise ValueError("a cycle without positions cannot be compared")
    return current.mean_pnl < earlier.mean_pnl


def degradation_streak(
    streak: int, current: CyclePerformance, earlier: CyclePerformance | None, weights: WeightsPolicy
) -> int:
    """The streak after a cycle under learned weights.

    ``earlier`` is the last cycle with enough positions. A cycle with fewer, or with none to be compared with,
    leaves the streak as it is; a lower one adds 1; any other ends it.
    """
    if current.n < weights.min_cycle_positions or earlier is None:
        return streak
    return streak + 1 if is_lower(current, earlier) else 0
