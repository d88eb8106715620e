"""Weights move to the nearest allowed point, and every bound holds exactly; correlations are those of scipy."""

import math
import random
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from closeloop.learning.weights import (
    UNITS_OF_ONE,
    DomainCorrelation,
    InfeasibleBounds,
    adjusted,
    check_bounds,
    correlate,
    project,
    with_q_values,
)
from closeloop.models.policy import WeightsPolicy


def within(floor: float, ceiling: float) -> WeightsPolicy:
    """Bounds that a policy may not have, too."""
    return WeightsPolicy.model_construct(floor=floor, ceiling=ceiling)


BALANCED = {"curator": 0.25, "onchain": 0.25, "tradfi": 0.20, "social": 0.15, "technical": 0.10, "events": 0.05}
Weights = dict[str, float]


def clamped(target: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float]) -> Weights:
    """The nearest point of the box that sums to 1, by bisection over the shift: nothing of the project's."""

    def at(shift: float) -> Weights:
        return {d: min(max(t - shift, low[d]), high[d]) for d, t in target.items()}

    left, right = -100.0, 100.0
    for _ in range(300):
        middle = (left + right) / 2
        left, right = (middle, right) if math.fsum(at(middle).values()) > 1 else (left, middle)
    return at((left + right) / 2)


def expected(weights: Weights, r: Mapping[str, float], delta: float, floor: float, ceiling: float) -> Weights:
    """What a cycle must come to."""
    start = clamped(weights, dict.fromkeys(weights, floor), dict.fromkeys(weights, ceiling))
    low = {d: max(floor, w - delta) for d, w in start.items()}
    high = {d: min(ceiling, w + delta) for d, w in start.items()}
    return clamped({d: w + r.get(d, 0.0) * delta for d, w in start.items()}, low, high)


def near(one: Mapping[str, float], other: Mapping[str, float], by: float) -> bool:
    return one.keys() == other.keys() and all(abs(w - other[d]) <= by for d, w in one.items())


def sums_to_exactly_one(weights: Weights) -> bool:
    """In every order of adding, and as rational numbers."""
    values = list(weights.values())
    orders = (values, values[::-1], sorted(values), sorted(values, reverse=True))
    return all(sum(order) == 1.0 for order in orders) and sum(map(Fraction, values)) == 1


SHARE = st.floats(0, 1, allow_nan=False)


@st.composite
def bounds(draw: st.DrawFn, n: int) -> tuple[float, float]:
    """Floor and ceiling that leave room to move."""
    return draw(st.floats(0, 0.999)) / n, 1 - draw(st.floats(0, 0.999)) * (1 - 1 / n)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Weights, dict[str, float], float, float, float]:
    n = draw(st.integers(2, 14))
    names = [f"d{i}" for i in range(n)]
    weights = {name: draw(st.one_of(SHARE, st.floats(-3, 3), st.sampled_from([0.0, 1.0, 1 / n]))) for name in names}
    floor, ceiling = draw(bounds(n))
    r = {name: draw(st.one_of(st.floats(-1, 1), st.sampled_from([0.0, -1.0, 1.0]))) for name in names}
    return weights, r, draw(st.one_of(st.floats(1e-9, 1), st.just(0.02))), floor, ceiling


@settings(max_examples=120, deadline=None)
@given(cases())
@example((BALANCED, {}, 0.02, 0.05, 0.40))
@example((BALANCED, dict.fromkeys(BALANCED, -1.0), 0.02, 0.05, 0.40))
@example(({"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": -1.0}, 0.01, 0.05, 0.9))
def test_sum_floor_ceiling_and_limit_hold_exactly_and_together(
    case: tuple[Weights, dict[str, float], float, float, float],
) -> None:
    weights, r, delta, floor, ceiling = case
    start = project(weights, within(floor, ceiling))
    assert sums_to_exactly_one(start)
    assert all(floor <= w <= ceiling for w in start.values())
    # From weights that keep to the bounds, as those of every earlier cycle do, the limit has no rounding either.
    new = adjusted(start, r, delta, within(floor, ceiling))
    assert sums_to_exactly_one(new)
    assert all(floor <= w <= ceiling for w in new.values())
    assert all(abs(Fraction(new[d]) - Fraction(w)) <= Fraction(delta) for d, w in start.items())
    assert all(abs(new[d] - w) <= delta for d, w in start.items())


@settings(max_examples=120, deadline=None)
@given(cases())
def test_it_is_the_point_that_bisection_finds(case: tuple[Weights, dict[str, float], float, float, float]) -> None:
    weights, r, delta, floor, ceiling = case
    low, high = dict.fromkeys(weights, floor), dict.fromkeys(weights, ceiling)
    assert near(project(weights, within(floor, ceiling)), clamped(weights, low, high), 1e-12)
    assert near(adjusted(weights, r, delta, within(floor, ceiling)), expected(weights, r, delta, floor, ceiling), 1e-12)


@pytest.mark.parametrize("seed", range(15))
def test_it_is_the_point_that_an_optimizer_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 10))
    names = [f"d{i}" for i in range(n)]
    floor, ceiling = float(rng.uniform(0, 0.9 / n)), float(rng.uniform(1.1 / n, 1))
    delta = float(rng.choice([0.005, 0.02, 0.2]))
    weights = dict(zip(names, map(float, rng.dirichlet(np.ones(n))), strict=True))
    r = dict(zip(names, map(float, rng.uniform(-1, 1, n)), strict=True))

    def nearest(target: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        found = optimize.minimize(
            lambda x: float(((x - target) ** 2).sum()),
            np.clip(np.full(n, 1 / n), low, high),
            jac=lambda x: 2 * (x - target),
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(n)},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 1000},
        )
        assert abs(found.x.sum() - 1) < 1e-9, found
        return np.asarray(found.x)

    start = nearest(np.array(list(weights.values())), np.full(n, floor), np.full(n, ceiling))
    assert np.allclose(list(project(weights, within(floor, ceiling)).values()), start, atol=1e-7)
    low, high = np.maximum(floor, start - delta), np.minimum(ceiling, start + delta)
    wanted = nearest(start + delta * np.array(list(r.values())), low, high)
    assert np.allclose(list(adjusted(weights, r, delta, within(floor, ceiling)).values()), wanted, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_order_of_the_domains_is_of_no_account(case: tuple[Weights, dict[str, float], float, float, float]) -> None:
    weights, r, delta, floor, ceiling = case
    backwards = dict(reversed(weights.items()))
    assert adjusted(weights, r, delta, within(floor, ceiling)) == adjusted(backwards, r, delta, within(floor, ceiling))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_projecting_twice_changes_nothing(case: tuple[Weights, dict[str, float], float, float, float]) -> None:
    weights, _, delta, floor, ceiling = case
    once = project(weights, within(floor, ceiling))
    assert project(once, within(floor, ceiling)) == once
    assert adjusted(once, {}, delta, within(floor, ceiling)) == once


def test_a_hundred_cycles_in_a_row_keep_every_bound() -> None:
    rng = random.Random(7)
    weights = project(BALANCED, within(0.05, 0.40))
    for _ in range(100):
        new = adjusted(weights, {d: rng.uniform(-1, 1) for d in weights}, 0.02, within(0.05, 0.40))
        assert sums_to_exactly_one(new)
        assert all(0.05 <= new[d] <= 0.40 and abs(new[d] - w) <= 0.02 for d, w in weights.items())
        weights = new


def test_clamp_then_renormalise_would_break_the_limit_where_this_does_not() -> None:
    """The case for which the algorithm was chosen: one domain gains, all others are pinned or lose."""
    r = {"onchain": 1.0}
    pinned = {d: min(max(w + r.get(d, 0.0) * 0.02, 0.05), 0.40) for d, w in BALANCED.items()}
    common = {d: w / sum(pinned.values()) for d, w in pinned.items()}
    assert min(common.values()) < 0.05  # the floor, broken
    new = adjusted(BALANCED, r, 0.02, within(0.05, 0.40))
    assert new["events"] >= 0.05
    assert new["onchain"] > 0.26


@pytest.mark.parametrize(
    ("domains", "floor", "ceiling", "words"),
    [
        (6, 0.2, 0.4, "6 domains of at least 0.2 each sum to more than 1: lower the floor"),
        (2, 0.05, 0.4, "2 domains of at most 0.4 each sum to less than 1: raise the ceiling"),
        (3, 0.5, 0.4, "must satisfy 0 <= floor <= ceiling <= 1"),
        (3, -0.1, 0.4, "must satisfy 0 <= floor <= ceiling <= 1"),
        (3, 0.1, 1.1, "must satisfy 0 <= floor <= ceiling <= 1"),
        (3, math.nan, 0.4, "must satisfy 0 <= floor <= ceiling <= 1"),
        (0, 0.0, 1.0, "0 domains"),
    ],
)
def test_bounds_that_no_weights_satisfy_are_refused(domains: int, floor: float, ceiling: float, words: str) -> None:
    weights = {f"d{i}": 1 / domains for i in range(domains)}
    with pytest.raises(InfeasibleBounds, match=words):
        check_bounds(domains, within(floor, ceiling))
    with pytest.raises(InfeasibleBounds, match=words):
        project(weights, within(floor, ceiling))
    with pytest.raises(InfeasibleBounds, match=words):
        adjusted(weights, {}, 0.02, within(floor, ceiling))


def test_one_domain_has_all_the_weight() -> None:
    assert project({"a": 0.3}, within(0.05, 1.0)) == {"a": 1.0}
    assert adjusted({"a": 1.0}, {"a": -1.0}, 0.02, within(0.05, 1.0)) == {"a": 1.0}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 10, 20])
@pytest.mark.parametrize("side", ["floor", "ceiling", "both"])
def test_bounds_without_room_give_equal_weights(n: int, side: str) -> None:
    """n * floor == 1 or n * ceiling == 1, up to the rounding of 1 / n itself: a unit of the grid."""
    floor = 1 / n if side != "ceiling" else 0.0
    ceiling = 1 / n if side != "floor" else 1.0
    rng = random.Random(n)
    weights = {f"d{i}": rng.random() for i in range(n)}
    new = adjusted(weights, {d: rng.uniform(-1, 1) for d in weights}, 0.02, within(floor, ceiling))
    assert sums_to_exactly_one(new)
    assert all(abs(Fraction(w) - Fraction(1, n)) <= Fraction(1, UNITS_OF_ONE) for w in new.values())


def test_weights_outside_the_bounds_are_brought_back_first() -> None:
    """The limit counts from the projected weights: a preset of 0.9 may not stay above the ceiling for years."""
    new = adjusted({"a": 0.9, "b": 0.06, "c": 0.04}, {"a": 1.0, "b": -1.0, "c": -1.0}, 0.02, within(0.05, 0.5))
    assert new["a"] == 0.5
    assert sums_to_exactly_one(new)
    assert near(project({"a": 0.9, "b": 0.06, "c": 0.04}, within(0.05, 0.5)), {"a": 0.5, "b": 0.26, "c": 0.24}, 1e-12)


@pytest.mark.parametrize("delta", [2.0**-49, 1e-13, 2.0**-50])
def test_the_smallest_limit_is_kept(delta: float) -> None:
    start = project(BALANCED, within(0.05, 0.40))
    new = adjusted(start, {"curator": 1.0, "social": -1.0}, delta, within(0.05, 0.40))
    assert sums_to_exactly_one(new)
    assert all(abs(Fraction(new[d]) - Fraction(w)) <= Fraction(delta) for d, w in start.items())


# -- correlation -------------------------------------------------------------------------------------------------------

OUTCOME = st.sampled_from([1, -1])
PAIRS = st.lists(st.tuples(st.integers(-1000, 1000).map(lambda i: i / 1000), OUTCOME), min_size=10, max_size=80)


@settings(max_examples=120, deadline=None)
@given(PAIRS)
def test_r_its_interval_and_p_are_those_of_scipy(pairs: list[tuple[float, int]]) -> None:
    found = correlate(pairs, WeightsPolicy())
    x, y = [score for score, _ in pairs], [outcome for _, outcome in pairs]
    assert found.n == len(pairs)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found == DomainCorrelation(len(pairs), 0.0, None, None, None)
        return
    wanted = stats.pearsonr(x, y)
    assert found.r == pytest.approx(wanted.statistic, abs=1e-12)
    if abs(wanted.statistic) > 1 - 1e-9:
        assert found.p == pytest.approx(0.0, abs=1e-9)
        return
    interval = wanted.confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-6, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_trades_changes_no_digit(pairs: list[tuple[float, int]], rng: random.Random) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert correlate(shuffled, WeightsPolicy()) == correlate(pairs, WeightsPolicy())


def test_too_few_pairs_and_no_variance_are_zero() -> None:
    pairs = [(0.1 * i, 1 if i % 2 else -1) for i in range(9)]
    assert correlate(pairs, WeightsPolicy()) == DomainCorrelation(9, 0.0, None, None, None)
    assert correlate([*pairs, (0.95, -1)], WeightsPolicy()).p is not None
    assert correlate([], WeightsPolicy()) == DomainCorrelation(0, 0.0, None, None, None)
    # 0.1 + 0.2 is not 0.3: equal scores must not leave a correlation of rounding errors.
    same = 0.1 + 0.2
    assert correlate([(same, 1 if i % 3 else -1) for i in range(30)], WeightsPolicy()) == DomainCorrelation(
        30, 0.0, None, None, None
    )
    assert correlate([(i / 30, 1) for i in range(30)], WeightsPolicy()) == DomainCorrelation(30, 0.0, None, None, None)


def test_a_perfect_correlation_has_no_width() -> None:
    found = correlate([(1.0, 1)] * 6 + [(-1.0, -1)] * 6, WeightsPolicy())
    assert (found.r, found.ci_low, found.ci_high, found.p) == (1.0, 1.0, 1.0, 0.0)
    against = correlate([(1.0, -1)] * 6 + [(-1.0, 1)] * 6, WeightsPolicy())
    assert (against.r, against.p) == (-1.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(SHARE, st.none(), st.sampled_from([0.0, 0.01, 0.05, 1.0])), min_size=1, max_size=20))
def test_q_values_are_those_of_benjamini_and_hochberg(p_values: list[float | None]) -> None:
    evidence = {f"d{i}": DomainCorrelation(30, 0.1, -0.3, 0.4, p) for i, p in enumerate(p_values)}
    found = with_q_values(evidence)
    assert list(found) == list(evidence)
    defined = {name: c.p for name, c in evidence.items() if c.p is not None}
    if defined:
        wanted = dict(zip(defined, stats.false_discovery_control(list(defined.values())), strict=True))
        assert {d: found[d].q for d in defined} == pytest.approx(wanted, abs=1e-12)
    assert all(found[name].q is None for name, p in zip(evidence, p_values, strict=True) if p is None)
