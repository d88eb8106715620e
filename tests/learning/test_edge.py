"""The factors of the edge score stay in [0, 1] and mean what they say; regimes teach their weights."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.edge import (
    EQUAL_WEIGHTS,
    Factors,
    SignatureWeights,
    edge_score,
    factors,
    signature_weights,
    weights_of,
)
from closeloop.learning.trades import Group, Trade, group_of
from closeloop.models.policy import EdgePolicy

POLICY = EdgePolicy()
DAY = 86_400.0


def group(*trades: tuple[str, float, float, float], macro: str = "S3") -> Group:
    """Of (symbol, rr, day, hours held)."""
    return group_of(
        "k",
        "entry",
        [Trade(f"{i:04d}", s, rr, day * DAY, h, {"btc_macro": macro}) for i, (s, rr, day, h) in enumerate(trades)],
    )


def all_of(made: Group) -> Factors:
    return factors(made, np.arange(made.n))


def test_time_efficiency() -> None:
    made = group(("a", 1, 0, 2.0), ("a", 1, 1, 4.0), ("a", 1, 2, 12.0))
    assert factors(made, np.array([0])).time_efficiency == pytest.approx(4 / 6)
    assert factors(made, np.array([1])).time_efficiency == 0.5
    assert all_of(made).time_efficiency == pytest.approx((4 / 6 + 4 / 8 + 4 / 16) / 3)
    assert all_of(group(("a", 1, 0, 0.0), ("b", 1, 1, 0.0))).time_efficiency == 0.5


def test_field_coherence() -> None:
    assert all_of(group(("a", 1, 0, 1), ("b", 2, 0.5, 1))).field_coherence == 1.0
    assert all_of(group(("a", 1, 0, 1), ("b", -2, 0.5, 1))).field_coherence == 0.0
    assert all_of(group(("a", 1, 0, 1), ("a", -2, 0.5, 1))).field_coherence == 0.5  # one token says nothing
    assert all_of(group(("a", 1, 0, 1), ("b", -2, 1.5, 1))).field_coherence == 0.5  # nor do different days
    # a: of b and c one did as it; b: a did, c did not; c: neither.
    assert all_of(group(("a", 1, 0, 1), ("b", 1, 0, 1), ("c", -1, 0, 1))).field_coherence == pytest.approx(1 / 3)


def test_recurrence() -> None:
    assert all_of(group(("a", 1, 0, 1))).recurrence == 0.0
    assert all_of(group(("a", 1, 0, 1), ("a", 1, 1, 1), ("a", 1, 4, 1))).recurrence == pytest.approx(
        (1 / 2 + 1 / 4) / 3
    )


def test_variance() -> None:
    made = group(("a", 1, 0, 1), ("a", 3, 1, 1), ("a", 3, 2, 1), ("a", 1, 3, 1))
    assert factors(made, np.array([1, 2])).variance == 1.0
    assert all_of(made).variance == pytest.approx((4 / 3) / (4 / 3 + 1))
    assert all_of(group(("a", 2, 0, 1), ("a", 2, 1, 1))).variance == 1.0


def test_no_trades_have_no_factors() -> None:
    with pytest.raises(ValueError, match="at least one trade"):
        factors(group(("a", 1, 0, 1)), np.empty(0, np.int64))


_TRADES = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(-50, 50), st.floats(0, 30), st.floats(0, 1e4)), min_size=1, max_size=30
)


@given(_TRADES)
def test_factors_and_weights_stay_in_bounds(trades: list[tuple[str, float, float, float]]) -> None:
    made = group(*trades)
    assert all(0 <= each <= 1 for each in astuple(all_of(made)))
    learned = signature_weights(made, POLICY)
    assert len(learned) == (made.n >= 10)
    for each in (*(one.weights for one in learned), weights_of(made, np.arange(made.n), learned)):
        assert all(0 <= weight <= 1 for weight in astuple(each))
        assert math.fsum(astuple(each)) == pytest.approx(1.0)


def test_a_regime_in_which_quick_trades_win_weighs_time() -> None:
    rng = np.random.default_rng(0)
    hours = rng.uniform(1, 50, 200)
    made = group(*(("a", 5.0 - h / 10 + rng.normal(), day, h) for day, h in enumerate(hours)))
    (learned,) = signature_weights(made, POLICY)
    assert (learned.signature, learned.n) == ("macro=S3", 200)
    assert learned.avg_rr == pytest.approx(made.rr.mean())
    x = np.median(hours) / (np.median(hours) + hours)
    r = np.corrcoef(x, made.rr)[0, 1]
    assert r > 0.7
    assert learned.weights.time_efficiency / learned.weights.field_coherence == pytest.approx(1 + r * 200 / 250)
    assert learned.weights.time_efficiency > max(learned.weights.recurrence, learned.weights.variance)


def test_ten_trades_teach_and_nine_do_not() -> None:
    rows = [("a", float(i % 3), float(i), float(i)) for i in range(10)]
    assert signature_weights(group(*rows[:9]), POLICY) == []
    assert [each.n for each in signature_weights(group(*rows), POLICY)] == [10]


def test_weights_of_a_lesson_are_those_of_its_trades() -> None:
    trades = [Trade(f"{i:02d}", "a", 1.0, i * DAY, 1.0, {"btc_macro": "S1"} if i < 3 else {}) for i in range(4)]
    made = group_of("k", "entry", trades)
    learned = [SignatureWeights("macro=S1", 30, 0.5, Factors(0.7, 0.1, 0.1, 0.1))]
    assert astuple(weights_of(made, np.array([0, 1]), learned)) == pytest.approx((0.7, 0.1, 0.1, 0.1))
    assert weights_of(made, np.array([3]), learned) == EQUAL_WEIGHTS
    assert weights_of(made, np.arange(4), learned).time_efficiency == pytest.approx((3 * 0.7 + 0.25) / 4)
    assert weights_of(made, np.empty(0, np.int64), learned) == EQUAL_WEIGHTS


@pytest.mark.parametrize(
    ("effect", "half_life", "since", "wanted"),
    [(0.8, None, 1e6, 0.6), (0.8, 100.0, 200.0, 0.15), (-0.8, None, 0.0, -0.6), (0.8, 100.0, -5.0, 0.6)],
)
def test_edge_score(effect: float, half_life: float | None, since: float, wanted: float) -> None:
    assert edge_score(Factors(0.5, 1.0, 1.0, 0.5), EQUAL_WEIGHTS, effect, half_life, since) == pytest.approx(wanted)
