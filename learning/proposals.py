"""What a cycle of weights proposes: evidence by domain, the gates of age and number, the step, and who may approve it.

The cycle of a book (activities/weight_cycles.py) and its simulation (learning/weight_walks.py) ask the same functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from closeloop.learning.overfitting import CycleTrade
from closeloop.learning.weights import (
    SAME_WEIGHT_WITHIN,
    DomainCorrelation,
    adjusted,
    correlate,
    project,
    with_q_values,
)
from closeloop.models.policy import WeightsPolicy
from closeloop.models.weights import Weights


@dataclass(frozen=True)
class Proposal:
    """New weights, or the reason for none. ``approves_itself``: the policy approves them without an operator."""

    new: Weights | None = None
    reason: str | None = None
    approves_itself: bool = False


def side_of(direction: str, weights: WeightsPolicy) -> int:
    """What a score is multiplied with so that it is positive where it spoke for the trade.

    >>> side_of("short", WeightsPolicy()), side_of("short", WeightsPolicy(domain_score_sign="trade"))
    (-1, 1)
    """
    return -1 if direction == "short" and weights.domain_score_sign == "market" else 1


def evidence_of(
    trades: Sequence[CycleTrade], domains: Mapping[str, float], weights: WeightsPolicy
) -> dict[str, DomainCorrelation]:
    """How each domain's scores towards the trades went with winning them; other domains' scores are passed over."""
    pairs: dict[str, list[tuple[float, int]]] = {domain: [] for domain in domains}
    for trade in trades:
        outcome = 1 if trade.won else -1
        for domain, score in trade.scores.items():
            if domain in pairs:
                pairs[domain].append((trade.side * score, outcome))
    return with_q_values({domain: correlate(p, weights) for domain, p in pairs.items()})


def propose(
    old: Weights,
    evidence: Mapping[str, DomainCorrelation],
    *,
    n: int,
    first_close: datetime | None,
    as_of: datetime,
    policy: WeightsPolicy,
    may_approve_itself: bool = True,
) -> Proposal:
    """Weights after a cycle whose window held ``n`` positions, of a book whose first one closed at ``first_close``.

    Raises InfeasibleBounds.
    """
    age = timedelta(0) if first_close is None else as_of - first_close
    if first_close is None or age < timedelta(days=policy.cold_start_days):
        return Proposal(reason="cold_start_baseline")
    if n < policy.min_observations:
        return Proposal(reason="insufficient_data")
    delta = policy.max_delta / 2 if age < timedelta(days=policy.warm_days) else policy.max_delta
    if may_approve_itself and (reduced := _supported(old, evidence, delta, policy)) is not None:
        return Proposal(reduced, approves_itself=True)
    new = adjusted(old, {domain: each.r for domain, each in evidence.items()}, delta, policy)
    return Proposal(reason="no_change") if _same(new, old) else Proposal(new)


def _supported(
    old: Weights, evidence: Mapping[str, DomainCorrelation], delta: float, policy: WeightsPolicy
) -> Weights | None:
    """The proposal by the domains alone whose q is at most ``self_approve_max_q``; None where none of them moves.

    What a domain moves by the projection, because weights sum to 1 or were outside the bounds, is no support.
    """
    limit = policy.self_approve_max_q
    if limit is None:
        return None
    kept = {domain: each.r for domain, each in evidence.items() if each.q is not None and each.q <= limit}
    if not kept:
        return None
    new, start = adjusted(old, kept, delta, policy), project(old, policy)
    moves = any(abs(new[domain] - start[domain]) >= SAME_WEIGHT_WITHIN for domain in kept)
    return new if moves and not _same(new, old) else None


def _same(new: Weights, old: Weights) -> bool:
    return all(abs(new[domain] - weight) < SAME_WEIGHT_WITHIN for domain, weight in old.items())
