"""Domain weights: they move towards the domains that were right, within floor, ceiling and the limit of one cycle.

Weights are whole multiples of 2**-50: a double holds each exactly, and sums and differences of them are exact, too. So
sum, floor, ceiling and the limit of one cycle hold exactly, not up to a rounding error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from closeloop.learning.correlation import correlation_p, pearson
from closeloop.learning.intervals import fisher_interval
from closeloop.learning.significance import benjamini_hochberg
from closeloop.models.policy import WeightsPolicy
from closeloop.models.weights import Preset, Weights

SAME_WEIGHT_WITHIN = 1e-12
"""Two weights that differ by less than this are the same: the grid on which weights lie (2^-50) is finer."""

UNITS_OF_ONE = 2**50  # units of weight in 1
_ROUNDING = 1e-12  # by which n times a bound may miss 1 (share of 1)


class InfeasibleBounds(ValueError):
    """No weights satisfy the bounds; the message says which to change."""


@dataclass(frozen=True)
class DomainCorrelation:
    """How a domain's scores went with the outcomes.

    ``n`` pairs, Pearson's ``r`` (0 where it is undefined), its 95 % interval by Fisher's z, the two-sided ``p`` of
    Student's t test, and the Benjamini-Hochberg ``q`` over all domains; None where undefined.
    """

    n: int
    r: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    q: float | None = None


def correlate(pairs: Sequence[tuple[float, int]], weights: WeightsPolicy) -> DomainCorrelation:
    """Pearson correlation of (score towards the trade, outcome +1 or -1); r = 0 with too few pairs or no variance.

    >>> correlate([(0.5, 1)] * 5, WeightsPolicy()).r
    0.0
    """
    n = len(pairs)
    if n < weights.min_pairs:
        return DomainCorrelation(n, 0.0, None, None, None)
    r = pearson([score for score, _ in pairs], [outcome for _, outcome in pairs])
    if math.isnan(r):
        return DomainCorrelation(n, 0.0, None, None, None)
    return DomainCorrelation(n, r, *fisher_interval(r, n), correlation_p(r, n))


def with_q_values(evidence: Mapping[str, DomainCorrelation]) -> dict[str, DomainCorrelation]:
    """The same with Benjamini-Hochberg q-values (1995) over the domains whose p is defined."""
    p_of = {domain: each.p for domain, each in evidence.items() if each.p is not None}
    q_of = dict(zip(p_of, benjamini_hochberg(np.array(list(p_of.values()))).tolist(), strict=True))
    return {domain: replace(each, q=q_of.get(domain)) for domain, each in evidence.items()}


def check_bounds(domains: int, weights: WeightsPolicy) -> None:
    """Raise InfeasibleBounds unless ``domains`` weights between floor and ceiling can sum to 1."""
    floor, ceiling = weights.floor, weights.ceiling
    if not 0 <= floor <= ceiling <= 1:
        raise InfeasibleBounds(f"floor {floor:g} and ceiling {ceiling:g} must satisfy 0 <= floor <= ceiling <= 1")
    if domains * floor > 1 + _ROUNDING:
        raise InfeasibleBounds(f"{domains} domains of at least {floor:g} each sum to more than 1: lower the floor")
    if domains * ceiling < 1 - _ROUNDING:
        raise InfeasibleBounds(f"{domains} domains of at most {ceiling:g} each sum to less than 1: raise the ceiling")


def project(current: Mapping[str, float], weights: WeightsPolicy) -> dict[str, float]:
    """The point nearest to ``current`` (Euclidean) whose weights lie within floor and ceiling and sum to 1.

    Raises InfeasibleBounds.

    >>> project({"a": 0.75, "b": 0.125, "c": 0.125}, WeightsPolicy(floor=0.0625, ceiling=0.5))
    {'a': 0.5, 'b': 0.25, 'c': 0.25}
    """
    exact, low, high = _projection(current, weights)
    return _on_grid(exact, low, high)


def adjusted(
    current: Mapping[str, float], correlations: Mapping[str, float], delta: float, weights: WeightsPolicy
) -> dict[str, float]:
    """Weights after one cycle: the point nearest to ``w' + r * delta`` that is allowed.

    ``w'`` are the current weights projected onto the bounds; allowed is what sums to 1, lies within floor and ceiling,
    and is at most ``delta`` from ``w'`` in every domain. Such a point always exists (``w'`` is one) and is unique.
    Raises InfeasibleBounds.
    """
    start, lowest, highest = _projection(current, weights)
    step = Fraction(delta)
    low = {name: max(lowest[name], w - step) for name, w in start.items()}
    high = {name: min(highest[name], w + step) for name, w in start.items()}
    target = {name: w + Fraction(correlations.get(name, 0.0)) * step for name, w in start.items()}
    return _on_grid(_nearest(target, low, high), low, high)


_Point = dict[str, Fraction]


def _projection(current: Mapping[str, float], weights: WeightsPolicy) -> tuple[_Point, _Point, _Point]:
    check_bounds(len(current), weights)
    # Where a bound leaves no room but rounding (ten domains of at least 0.1), the room is exactly 1 / n.
    even = Fraction(1, len(current))
    low = dict.fromkeys(current, min(Fraction(weights.floor), even))
    high = dict.fromkeys(current, max(Fraction(weights.ceiling), even))
    return _nearest({name: Fraction(w) for name, w in current.items()}, low, high), low, high


def _nearest(target: Mapping[str, Fraction], low: Mapping[str, Fraction], high: Mapping[str, Fraction]) -> _Point:
    """Project onto {sum = 1, low <= x <= high}: x = clamp(target - shift), with the one shift that makes the sum 1.

    The sum falls piecewise linearly in the shift (Held, Wolfe & Crowder 1974), so the shift is found exactly, in
    rational numbers, between two neighbouring break points.
    """

    def at(shift: Fraction) -> _Point:
        return {name: min(max(t - shift, low[name]), high[name]) for name, t in target.items()}

    breaks = sorted({t - low[n] for n, t in target.items()} | {t - high[n] for n, t in target.items()})
    left, right = 0, len(breaks) - 1
    while right - left > 1:
        middle = (left + right) // 2
        if sum(at(breaks[middle]).values()) >= 1:
            left = middle
        else:
            right = middle
    start, end = breaks[left], breaks[right]
    sum_start, sum_end = sum(at(start).values()), sum(at(end).values())
    if sum_start == sum_end:
        return at(start)
    return at(start + (end - start) * (sum_start - 1) / (sum_start - sum_end))


def _on_grid(exact: _Point, low: Mapping[str, Fraction], high: Mapping[str, Fraction]) -> dict[str, float]:
    """The nearest weights that are whole units: rounded down, the rest handed to the largest remainders with room."""
    least = {name: math.ceil(bound * UNITS_OF_ONE) for name, bound in low.items()}
    most = {name: math.floor(bound * UNITS_OF_ONE) for name, bound in high.items()}
    if (
        any(least[n] > most[n] for n in exact)
        or sum(least.values()) > UNITS_OF_ONE
        or sum(most.values()) < UNITS_OF_ONE
    ):
        # Bounds closer to each other than a unit: they hold up to that unit.
        least = {name: math.floor(bound * UNITS_OF_ONE) for name, bound in low.items()}
        most = {name: math.ceil(bound * UNITS_OF_ONE) for name, bound in high.items()}
    units = {name: min(max(math.floor(x * UNITS_OF_ONE), least[name]), most[name]) for name, x in exact.items()}
    order = sorted(units, key=lambda name: (units[name] - exact[name] * UNITS_OF_ONE, name))
    while (missing := UNITS_OF_ONE - sum(units.values())) != 0:
        step = 1 if missing > 0 else -1
        for name in order if missing > 0 else reversed(order):
            if missing != 0 and least[name] <= units[name] + step <= most[name]:
                units[name] += step
                missing -= step
    return {name: units[name] / UNITS_OF_ONE for name in exact}


def preset_weights(preset: Preset, policy: WeightsPolicy) -> Weights:
    """A preset's weights as they are if they keep to the bounds, else the nearest that do. Raises InfeasibleBounds."""
    allowed = project(preset.weights, policy)
    if all(abs(allowed[domain] - weight) < SAME_WEIGHT_WITHIN for domain, weight in preset.weights.items()):
        return dict(preset.weights)
    return allowed
