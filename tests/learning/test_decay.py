"""The half-life of an edge: found where it fades, and seldom where it does not."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from closeloop.learning.decay import fading
from closeloop.models.policy import DecayPolicy

POLICY = DecayPolicy()
HOUR = 3600.0


def half_life(entered_at: NDArray[np.float64], excess: NDArray[np.float64], policy: DecayPolicy) -> float | None:
    found = fading(entered_at, excess, policy)
    return found.half_life_hours if found else None


@pytest.mark.parametrize("h", [24.0, 60.0, 240.0, 2000.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_fading_edge_is_found(h: float, sign: float) -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0.0, 4 * h, 600))
    found = half_life(t * HOUR + 1.7e9, sign * 2.0 * 0.5 ** (t / h) + rng.normal(0, 0.1, 600), POLICY)
    assert found == pytest.approx(h, rel=0.1)


def test_as_a_general_fit_finds_it() -> None:
    rng = np.random.default_rng(3)
    t = rng.uniform(0.0, 900.0, 400)
    y = 1.5 * 0.5 ** (t / 200.0) + rng.normal(0, 1.0, 400)
    (_, h), _ = optimize.curve_fit(lambda x, a, half: a * 0.5 ** (x / half), t - t.min(), y, p0=(1.0, 100.0))
    assert half_life(t * HOUR, y, POLICY) == pytest.approx(h, rel=0.05)


def test_no_decay_where_there_is_none() -> None:
    """A constant edge: the likelihood ratio passes 2.71 by luck about one time in twenty (only falling edges count)."""
    rng = np.random.default_rng(1)
    found = [half_life(np.arange(300) * 4 * HOUR, rng.normal(1.0, 1.0, 300), POLICY) for _ in range(300)]
    assert 0 < sum(each is not None for each in found) < 30


def test_a_growing_edge_does_not_fade() -> None:
    t = np.arange(200.0)
    assert half_life(t * 24 * HOUR, 0.1 + t / 100.0, POLICY) is None


@pytest.mark.parametrize("excess", [[], [1.0], [1.0, 0.5], [0.3] * 50, [0.0] * 50])
def test_too_little_to_say(excess: list[float]) -> None:
    assert half_life(np.arange(len(excess)) * 1e5, np.array(excess), POLICY) is None


def test_all_at_once() -> None:
    assert half_life(np.zeros(50), np.arange(50.0), POLICY) is None


def test_the_grid_is_the_policys() -> None:
    t = np.arange(0.0, 400.0)
    policy = DecayPolicy(shortest_hours=50.0, longest_hours=60.0)
    found = half_life(t * HOUR, 0.5 ** (t / 10.0), policy)
    assert found == pytest.approx(50.0)
    assert half_life(t * HOUR, 0.5 ** (t / 10.0), DecayPolicy(min_evidence=1e9)) is None


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_left_of_an_edge(sign: float) -> None:
    """As a weighted least squares of scipy says it, and by the plain formula, at the last entry and long after it."""
    rng = np.random.default_rng(5)
    t = np.sort(rng.uniform(0.0, 900.0, 400))
    y = sign * 1.5 * 0.5 ** (t / 200.0) + rng.normal(0, 1.0, 400)
    found = fading(t * HOUR + 1.7e9, y, POLICY)
    assert found is not None
    h, hours = found.half_life_hours, t - t.min()
    (a,), covariance = optimize.curve_fit(lambda x, a: a * 0.5 ** (x / h), hours, y, p0=(1.0,))
    # curve_fit divides by n - 1, as it fits one number; here the half-life was fitted as well.
    error = math.sqrt(covariance[0, 0] * (len(t) - 1) / (len(t) - 2))
    width = stats.t.ppf(0.95, len(t) - 2) * error
    for later in (0.0, 900.0, 2900.0):
        share = 0.5 ** (later / h)
        left = found.left(t.min() * HOUR + 1.7e9 + later * HOUR, 0.9)
        assert left == pytest.approx((share * a, share * (a - width), share * (a + width)), rel=1e-5)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Where an edge was seen to fade: that it is chosen by a fit of the half-life costs the interval little."""
    rng = np.random.default_rng(6)
    t = np.arange(500) * 2.0
    inside = []
    for _ in range(400):
        found = fading(t * HOUR, 2.0 * 0.5 ** (t / 300.0) + rng.normal(0, 1.0, 500), POLICY)
        assert found is not None
        left = found.left(300.0 * HOUR, 0.9)
        inside.append(left.low <= 1.0 <= left.high)
    assert sum(inside) / 400 > 0.8, sum(inside) / 400
