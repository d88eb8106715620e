"""Scores of single forecasts, against the formulas one number at a time."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.scoring import (
    ACTION_CODES,
    FLAT,
    LONG,
    SHORT,
    brier,
    correct,
    correct_by_prices,
    log_score,
    returns_pct,
)
from closeloop.models.policy import ForecastsPolicy

prices = st.decimals("0.00000001", "100000000", places=8)
confidences = st.floats(0, 1)


@given(st.lists(st.tuples(prices, prices), min_size=1))
def test_returns_are_percent_rounded_once(pairs: list[tuple[Decimal, Decimal]]) -> None:
    found = returns_pct([a for a, _ in pairs], [b for _, b in pairs]).tolist()
    exact = [(Fraction(b) - Fraction(a)) / Fraction(a) * 100 for a, b in pairs]
    assert found == [float(one) for one in exact]


@given(st.lists(st.tuples(prices, prices, st.sampled_from(["long", "short", "flat"])), min_size=1))
def test_right_is_decided_by_the_exact_prices(said: list[tuple[Decimal, Decimal, str]]) -> None:
    codes = np.array([ACTION_CODES[action] for *_, action in said], np.int8)
    found = correct_by_prices(codes, [a for a, *_ in said], [b for _, b, _ in said], ForecastsPolicy())
    rules = {"long": lambda r: r > 0, "short": lambda r: r < 0, "flat": lambda r: abs(r) <= Fraction(1, 4)}
    assert found.tolist() == [rules[action]((Fraction(b) - Fraction(a)) / Fraction(a) * 100) for a, b, action in said]


@given(st.decimals("0.00001", 99_999, places=5), st.sampled_from(["1.0025", "0.9975"]), st.integers(1, 11))
def test_an_edge_is_flat_and_one_digit_more_is_not(price: Decimal, factor: str, digits: int) -> None:
    edge = price * Decimal(factor)
    beyond = edge + Decimal(1).scaleb(-digits - 10) * (1 if factor > "1" else -1)
    found = correct_by_prices(np.array([FLAT, FLAT], np.int8), [price, price], [edge, beyond], ForecastsPolicy())
    assert found.tolist() == [True, False]
    assert returns_pct([price], [edge]).tolist() == [0.25 if factor > "1" else -0.25]


@given(st.lists(st.tuples(st.sampled_from(["long", "short", "flat"]), st.floats(-50, 50)), min_size=1), st.floats(0, 5))
def test_correct_is_the_rule(forecasts: list[tuple[str, float]], band: float) -> None:
    codes = np.array([ACTION_CODES[action] for action, _ in forecasts], np.int8)
    found = correct(codes, np.array([r for _, r in forecasts]), ForecastsPolicy(flat_band_pct=band)).tolist()
    rules = {"long": lambda r: r > 0, "short": lambda r: r < 0, "flat": lambda r: abs(r) <= band}
    assert found == [rules[action](r) for action, r in forecasts]


@pytest.mark.parametrize(
    ("action", "return_pct", "right"),
    [
        (LONG, 0.0, False),
        (SHORT, 0.0, False),
        (FLAT, 0.0, True),
        (LONG, 5e-324, True),
        (SHORT, -5e-324, True),
        (FLAT, 0.25, True),
        (FLAT, -0.25, True),
        (FLAT, math.nextafter(0.25, 1), False),
        (FLAT, math.nextafter(-0.25, -1), False),
    ],
)
def test_edges(action: int, return_pct: float, right: bool) -> None:
    assert correct(np.array([action], np.int8), np.array([return_pct]), ForecastsPolicy()).tolist() == [right]


@given(st.lists(st.tuples(confidences, st.booleans()), min_size=1))
def test_brier_and_log_score(forecasts: list[tuple[float, bool]]) -> None:
    p, o = np.array([p for p, _ in forecasts]), np.array([o for _, o in forecasts])
    assert brier(p, o).tolist() == [(p - o) * (p - o) for p, o in forecasts]
    given_to_it = [min(max(p if o else 1 - p, 1e-6), 1 - 1e-6) for p, o in forecasts]
    assert log_score(p, o) == pytest.approx([-math.log(q) for q in given_to_it], rel=1e-9, abs=1e-15)


def test_certainty_that_is_wrong_costs_a_finite_sum() -> None:
    costs = log_score(np.array([0.0, 1.0, 0.0, 1.0]), np.array([True, False, False, True]))
    assert costs[:2] == pytest.approx([-math.log(1e-6)] * 2, rel=1e-9)
    assert costs[2:] == pytest.approx([-math.log(1 - 1e-6)] * 2, rel=1e-6)


@given(confidences)
def test_both_scores_are_proper(belief: float) -> None:
    """The expected score of a forecaster who believes p is best when it states p."""
    said = np.linspace(0.001, 0.999, 999)
    for score in (brier, log_score):
        true, false = np.ones(999, np.bool_), np.zeros(999, np.bool_)
        expected = belief * score(said, true) + (1 - belief) * score(said, false)
        assert abs(said[np.argmin(expected)] - belief) <= 0.0011
