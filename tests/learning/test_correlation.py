"""Correlations against scipy, and in whatever order the pairs come."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from closeloop.learning.correlation import correlation_p, pearson, pearson_of

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=4, max_size=50)


@given(pairs)
def test_it_is_that_of_scipy(drawn: list[tuple[float, float]]) -> None:
    x, y = zip(*drawn, strict=True)
    found = pearson(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found)
        return
    wanted = stats.pearsonr(x, y)
    assert found == pytest.approx(wanted.statistic, abs=1e-9)
    if abs(found) < 1 - 1e-9:
        assert correlation_p(found, len(x)) == pytest.approx(wanted.pvalue, rel=1e-5, abs=1e-12)


@given(pairs, st.randoms(use_true_random=False))
def test_the_same_bits_in_any_order(drawn: list[tuple[float, float]], rng: random.Random) -> None:
    x, y = zip(*drawn, strict=True)
    rng.shuffle(drawn)
    assert repr(pearson(x, y)) == repr(pearson(*zip(*drawn, strict=True)))


def test_what_does_not_vary_but_for_rounding_goes_with_nothing() -> None:
    assert math.isnan(pearson([0.1 + 0.2, 0.3, 0.3, 0.3], [1.0, 2.0, 3.0, 4.0]))
    assert math.isnan(pearson([], []))


def test_of_moments_it_is_the_same() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    (a, c), (_, b) = np.cov(x, y)
    assert float(pearson_of(c, a, b)) == pytest.approx(pearson(x, y))
    assert np.isnan(pearson_of(np.array([0.0]), np.array([0.0]), np.array([1.0])))[0]


def test_a_straight_line_is_a_certainty() -> None:
    assert correlation_p(1.0, 10) == correlation_p(-1.0, 10) == 0.0
