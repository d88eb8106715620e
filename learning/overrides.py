"""From lessons to sizes: what an override changes, when it expires, and what several that match change together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from closeloop.learning.decay import EffectNow
from closeloop.models.overrides import MatchedOverride, OverrideMatch
from closeloop.models.policy import DecayPolicy, MiningPolicy, OverridesPolicy

_OPENING = frozenset({"entry", "add"})  # categories of actions that open or enlarge a position


@dataclass(frozen=True)
class Sizing:
    """What an override changes: a factor of size, what is added to thresholds, and a confidence in [0, 1)."""

    size_multiplier: float
    threshold_adjustments: dict[str, float]
    confidence: float


def is_actionable(
    accepted: bool,
    q: float | None,
    effect: float | None,
    half_life_hours: float | None,
    now: EffectNow | None,
    mining: MiningPolicy,
    decay: DecayPolicy,
) -> bool:
    """Whether a lesson may change sizes: accepted, significant, large enough, and neither faded nor gone too soon.

    ``now``: what is left of an effect that fades, None of one that does not. It has to be large enough, of the sign of
    the effect, and its interval without 0.
    """
    if not accepted or q is None or effect is None or q > mining.max_q:
        return False
    if half_life_hours is None or now is None:
        return abs(effect) >= mining.min_effect
    return (
        half_life_hours >= decay.min_half_life_hours
        and abs(now.effect) >= mining.min_effect
        and now.effect * effect > 0
        and now.low * now.high > 0
    )


def sizing(effect_now: float, n: int, action_category: str, overrides: OverridesPolicy) -> Sizing:
    """What a lesson of ``n`` trades with this effect (R), as far as it has not faded, changes.

    The effect is shrunk by n / (n + shrink_trades), as if that many trades without any had been seen before (a normal
    prior).

    >>> sizing(1.0, 150, "exit", OverridesPolicy())
    Sizing(size_multiplier=1.15, threshold_adjustments={}, confidence=0.75)
    """
    confidence = n / (n + overrides.shrink_trades)
    shrunk = effect_now * confidence
    multiplier = _clamp(1.0 + overrides.size_slope * shrunk, overrides.min_size, overrides.max_size)
    limit = overrides.threshold_limit
    lowered = _clamp(overrides.threshold_slope * shrunk, -limit, limit)
    return Sizing(multiplier, {"ts_threshold": -lowered} if action_category in _OPENING else {}, confidence)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def needs_approval(size_multiplier: float, overrides: OverridesPolicy) -> bool:
    """Whether an override with this size multiplier needs an operator's approval."""
    return abs(size_multiplier - 1.0) > overrides.approval_limit


def expires_at(newest_trade: datetime, half_life_hours: float | None, overrides: OverridesPolicy) -> datetime:
    """When an override ends unless its lesson is renewed: counted from the entry of the lesson's newest trade.

    A slowly fading edge is trusted no longer than one of which no decay was seen.
    """
    hours = 24.0 * overrides.days_without_decay
    if half_life_hours is not None:
        hours = min(hours, overrides.half_lives * half_life_hours)
    return newest_trade + timedelta(hours=hours)


@dataclass(frozen=True)
class Override:
    """A stored override that applies: its scope is contained in the current one."""

    override_id: str
    scope: Mapping[str, str]
    size_multiplier: float
    threshold_adjustments: Mapping[str, float]
    confidence: float


def blend(applying: Sequence[Override], overrides: OverridesPolicy) -> OverrideMatch:
    """The weighted mean of what overrides say, with weight confidence x (1 + conditions)^specificity_power.

    The result does not depend on the order; without any override the multiplier is exactly 1 and no threshold is
    adjusted. A threshold's adjustment is the mean over the overrides that adjust it. The overrides come by id.
    """
    ordered = sorted(applying, key=lambda each: each.override_id)
    weights = [each.confidence * (1 + len(each.scope)) ** overrides.specificity_power for each in ordered]
    total = math.fsum(weights)
    if total <= 0:
        return OverrideMatch(size_multiplier=1.0, threshold_adjustments={}, spoke=[])
    adjustments = {}
    for threshold in sorted({name for each in ordered for name in each.threshold_adjustments}):
        values = [
            (each.threshold_adjustments[threshold], weight)
            for each, weight in zip(ordered, weights, strict=True)
            if threshold in each.threshold_adjustments
        ]
        adjustments[threshold] = _weighted_mean(values)
    return OverrideMatch(
        size_multiplier=_weighted_mean(
            [(each.size_multiplier, weight) for each, weight in zip(ordered, weights, strict=True)]
        ),
        threshold_adjustments=adjustments,
        spoke=[
            MatchedOverride(
                override_id=each.override_id, scope=dict(each.scope), multiplier=each.size_multiplier, weight=weight
            )
            for each, weight in zip(ordered, weights, strict=True)
        ],
    )


def _weighted_mean(values: Sequence[tuple[float, float]]) -> float:
    """Weighted mean of (value, weight); never outside the values by a rounding error."""
    total = math.fsum(weight for _, weight in values)
    if total <= 0:
        return 0.0
    mean = math.fsum(value * weight for value, weight in values) / total
    return _clamp(mean, min(value for value, _ in values), max(value for value, _ in values))
