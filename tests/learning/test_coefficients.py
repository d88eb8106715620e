"""Timeframe coefficients: decayed means that do not depend on the order, and the method ``seed``."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.coefficients import DecayedMean, after, weight
from closeloop.models.policy import CoefficientsPolicy

POLICY, SEED = CoefficientsPolicy(), CoefficientsPolicy(method="seed")
DAY = 86_400.0
_TRADES = st.lists(st.tuples(st.floats(-5, 20), st.floats(0, 400)), min_size=1, max_size=30)


def one_by_one(trades: list[tuple[float, float]], tau: float, policy: CoefficientsPolicy = POLICY) -> DecayedMean:
    state = DecayedMean()
    for rr, day in trades:
        state = after(state, np.array([rr]), np.array([day * DAY]), tau, policy)
    return state


@given(_TRADES, st.sampled_from([14.0, 90.0]), st.randoms(use_true_random=False))
def test_in_any_order_and_in_any_parts(trades: list[tuple[float, float]], tau: float, rng: random.Random) -> None:
    newest = max(day for _, day in trades)
    weights = [math.exp((day - newest) / tau) for _, day in trades]
    wanted = math.fsum(w * rr for w, (rr, _) in zip(weights, trades, strict=True)) / math.fsum(weights)
    rng.shuffle(trades)
    at_once = DecayedMean.of(np.array([rr for rr, _ in trades]), np.array([day * DAY for _, day in trades]), tau)
    for state in (at_once, one_by_one(trades, tau)):
        assert state.value == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        assert (state.n, state.t_ref) == (len(trades), newest * DAY)


def test_bulk_is_the_same_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    rr, at = rng.normal(size=500), rng.uniform(0, 1e7, 500)
    order = rng.permutation(500)
    assert DecayedMean.of(rr, at, 14.0) == DecayedMean.of(rr[order], at[order], 14.0)


def test_nothing_known() -> None:
    assert DecayedMean().value is None
    assert DecayedMean.of(np.empty(0), np.empty(0), 14.0) == DecayedMean()
    assert after(DecayedMean(), np.empty(0), np.empty(0), 14.0, SEED) == DecayedMean()
    assert weight(DecayedMean(), DecayedMean(), POLICY) == 1.0


def test_a_trade_of_long_ago_weighs_nothing_and_breaks_nothing() -> None:
    state = one_by_one([(1.0, 40_000.0), (9.0, 0.0)], 14.0)
    assert (state.value, state.n) == (1.0, 2)


@pytest.mark.parametrize(
    ("own", "n", "all_", "wanted"),
    [
        (1.5, 50, 1.0, 1.25),  # believed by half
        (0.5, 50, 1.0, 0.75),
        (9.0, 5000, 0.0, 2.0),
        (-9.0, 5000, 0.0, 0.5),
        (1.0, 10, 1.0, 1.0),
    ],
)
def test_weight(own: float, n: int, all_: float, wanted: float) -> None:
    assert weight(DecayedMean(own * n, n, 0.0, n), DecayedMean(all_, 1.0, 0.0, 9), POLICY) == pytest.approx(wanted)


def test_the_seeds_update() -> None:
    """alpha is 1/2 at the close, so the newest three trades weigh 1/2, 1/4 and 1/8; a late one weighs less."""
    trades = [(8.0, 0.0), (4.0, 1.0), (2.0, 2.0), (1.0, 3.0)]
    assert one_by_one(trades, 14.0, SEED).value == pytest.approx(1 / 2 + 2 / 4 + 4 / 8 + 8 / 8)
    w = math.exp(-14.0 / 14.0)
    late = one_by_one([(1.0, 14.0), (3.0, 0.0)], 14.0, SEED)
    assert late.value == pytest.approx(1.0 + w / (w + 1) * 2.0)
    assert (late.n, late.t_ref) == (2, 14.0 * DAY)
    rr, at = np.array([t[0] for t in trades]), np.array([t[1] * DAY for t in trades])
    assert after(DecayedMean(), rr[::-1], at[::-1], 14.0, SEED) == one_by_one(trades, 14.0, SEED)


@pytest.mark.parametrize(
    ("own", "all_", "wanted"), [(1.2, 1.0, 1.2), (5.0, 0.01, 2.0), (0.1, 1.0, 0.5), (1.0, -0.5, 1.0), (-1.0, 1.0, 1.0)]
)
def test_the_seeds_ratio(own: float, all_: float, wanted: float) -> None:
    assert weight(DecayedMean(own, 1.0, 0.0, 9), DecayedMean(all_, 1.0, 0.0, 9), SEED) == pytest.approx(wanted)
