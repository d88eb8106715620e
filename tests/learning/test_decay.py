"""The half-life of an edge: found where it fades, and seldom where it does not."""

import numpy as np
import pytest
from scipy import optimize

from closeloop.learning.decay import half_life
from closeloop.models.policy import DecayPolicy

POLICY = DecayPolicy()
HOUR = 3600.0


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
