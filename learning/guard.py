"""The guarded reversion: learned weights against the preset's, on the same trades, until the evidence is enough.

In a cycle each set of weights would have sized the trades by its conviction in them; the difference of what the two
sizings made in R is the cycle's observation. Evidence against the learned weights is an e-detector (Shin, Ramdas
and Rinaldo 2024, New England Journal of Statistics in Data Science 2): at each cycle a bet is opened that they do
worse, and the wealth of all bets is added up. Where learned weights are on the average no worse than the preset, the
sum grows by at most 1 a cycle on the average, and the first time that it reaches a threshold is on the average at least
as many cycles away as the threshold says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from closeloop.learning.overfitting import CycleTrade
from closeloop.models.policy import WeightsPolicy
from closeloop.models.weights import GuardReading

MOST_CYCLES_COUNTED = 1_000
"""How far :func:`cycles_at_worst` looks ahead (cycles)."""


@dataclass(frozen=True)
class Comparison:
    """What sizing ``n`` trades by conviction made of them, in R a trade, under either weights; None: no conviction."""

    n: int
    r_learned: float | None
    r_preset: float | None

    @property
    def difference(self) -> float:
        """d of docs/algorithms.md: how much better the learned weights were (R a trade); 0 where one has none."""
        if self.r_learned is None or self.r_preset is None:
            return 0.0
        return self.r_learned - self.r_preset


def conviction(trade: CycleTrade, weights: Mapping[str, float]) -> float:
    """How much these weights spoke for a trade: the weighted sum of its scores towards it, at least 0.

    >>> conviction(CycleTrade(1.0, 1.0, side=-1, won=True, scores={"a": -0.5, "b": 0.5}), {"a": 0.75, "b": 0.25})
    0.25
    """
    towards = math.fsum(weights[domain] * score for domain, score in trade.scores.items() if domain in weights)
    return max(0.0, trade.side * towards)


def compare(
    trades: Sequence[CycleTrade], learned: Mapping[str, float], preset: Mapping[str, float], weights: WeightsPolicy
) -> Comparison:
    """Learned weights and the preset's on the trades whose R is known and that have a score of one of the domains.

    With sizes c_i of mean 1, the mean of R c is the mean of R weighted by c. R counts up to ± ``guard_max_r``.
    """
    counted = [trade for trade in trades if trade.rr is not None and not learned.keys().isdisjoint(trade.scores)]
    limit = weights.guard_max_r
    outcomes = [min(max(trade.rr or 0.0, -limit), limit) for trade in counted]

    def made(by: Mapping[str, float]) -> float | None:
        sizes = [conviction(trade, by) for trade in counted]
        whole = math.fsum(sizes)
        if whole <= 0:
            return None
        return math.fsum(size / whole * r for size, r in zip(sizes, outcomes, strict=True))

    return Comparison(len(counted), made(learned), made(preset))


def guard_reading(
    before: Sequence[float] | None, trades: Sequence[CycleTrade], learned: Mapping[str, float],
    preset: Mapping[str, float], weights: WeightsPolicy,
) -> GuardReading:  # fmt: skip
    """The evidence after a cycle under learned weights; ``before`` is what the cycle before left, None: nothing.

    For each bet λ: M ← (M + 1)(1 - λx), x = clamp(d / ``guard_full_r``, ±1). A cycle of which no trade can be compared
    leaves the evidence as it is. Where its mean reaches ``guard_threshold`` the preset is due, and the next evidence
    begins at nothing.
    """
    wealth = [0.0] * len(weights.guard_bets)
    if before is not None and len(before) == len(wealth):
        wealth = list(before)
    found = compare(trades, learned, preset, weights)
    x = min(max(found.difference / weights.guard_full_r, -1.0), 1.0)
    if found.n:
        wealth = [_bet(held, bet, x) for held, bet in zip(wealth, weights.guard_bets, strict=True)]
    evidence = _mean(wealth)
    enough = evidence >= weights.guard_threshold
    return GuardReading(
        n=found.n,
        r_learned=found.r_learned,
        r_preset=found.r_preset,
        difference=found.difference,
        x=x,
        evidence=evidence,
        threshold=weights.guard_threshold,
        wealth=[0.0] * len(wealth) if enough else wealth,
        cycles_at_worst=0 if enough else cycles_at_worst(wealth, weights),
    )


def cycles_at_worst(wealth: Sequence[float], weights: WeightsPolicy) -> int:
    """In how many more cycles the preset would be due, were each of them as bad as one can be for the evidence.

    >>> cycles_at_worst([0.0, 0.0, 0.0], WeightsPolicy())
    7
    """
    held = list(wealth)
    for cycles in range(1, MOST_CYCLES_COUNTED):
        held = [_bet(each, bet, -1.0) for each, bet in zip(held, weights.guard_bets, strict=True)]
        if _mean(held) >= weights.guard_threshold:
            return cycles
    return MOST_CYCLES_COUNTED


def _bet(wealth: float, bet: float, x: float) -> float:
    return (wealth + 1.0) * (1.0 - bet * x)


def _mean(wealth: Sequence[float]) -> float:
    return math.fsum(wealth) / len(wealth)
