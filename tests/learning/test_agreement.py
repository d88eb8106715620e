"""Rates of agreement and their intervals against scipy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from closeloop.learning.agreement import agreement
from closeloop.learning.intervals import wilson_intervals
from closeloop.models.policy import ProducersPolicy

HOUR = 3_600_000_000


def rates(counts: list[list[int]], horizon: int = HOUR, min_outcomes: int = 1) -> dict[str, NDArray[np.float64]]:
    of = np.array(counts, np.int64)
    return vars(agreement(of, np.full(len(of), horizon, np.int64), ProducersPolicy(min_outcomes=min_outcomes)))


def test_rates_and_their_intervals() -> None:
    found = rates([[40, 30, 20, 22, 7, 3]])
    expected = {
        "agreement": (30, 40),
        "hit_agreed": (21, 30),
        "hit_first_disagreed": (7, 10),
        "hit_second_disagreed": (3, 10),
    }
    for name, (k, n) in expected.items():
        interval = binomtest(k, n).proportion_ci(method="wilson")
        assert found[name][0] == pytest.approx(k / n), name
        assert (found[f"{name}_low"][0], found[f"{name}_high"][0]) == pytest.approx((interval.low, interval.high)), name


def test_blocks_shorter_than_the_horizon_count_for_less() -> None:
    found = rates([[40, 30, 20, 22, 7, 3]], horizon=8 * HOUR)
    low, high = wilson_intervals(np.array([30 / 40]), np.array([10.0]))
    assert found["agreement"][0] == 30 / 40
    assert (found["agreement_low"][0], found["agreement_high"][0]) == pytest.approx((low[0], high[0]))


def test_rates_of_too_little_are_unknown() -> None:
    found = rates([[4, 4, 3, 3, 0, 0], [9, 5, 5, 5, 1, 3], [9, 4, 2, 1, 3, 2]], min_outcomes=5)
    assert np.isnan(found["agreement"]).tolist() == [True, False, False]
    assert np.isnan(found["hit_agreed"]).tolist() == [True, False, True]
    assert np.isnan(found["hit_first_disagreed"]).tolist() == [True, True, False]
    assert np.isnan(found["hit_second_disagreed_high"]).tolist() == [True, True, False]
    assert np.isnan(rates([[0] * 6])["agreement"]).tolist() == [True]
