"""Intervals against scipy and statsmodels, and Wilson's against the test that it inverts."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, pearsonr
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from closeloop.learning.intervals import (
    fisher_interval,
    normal_half_width,
    t_half_width,
    wilson_interval,
    wilson_intervals,
)

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def counts(draw: st.DrawFn, most: int = 1_000_000) -> tuple[int, int]:
    """(successes, trials), at least one trial."""
    trials = draw(st.integers(1, most))
    return draw(st.integers(0, trials)), trials


def interval(successes: int, trials: int, z: float | None = None) -> tuple[float, float]:
    found = wilson_interval(successes, trials) if z is None else wilson_interval(successes, trials, z)
    assert found is not None
    return found


@untimed
@given(counts())
@example((0, 1))
@example((1, 1))
@example((170, 179))
def test_it_agrees_with_scipy(counted: tuple[int, int]) -> None:
    expected = binomtest(*counted).proportion_ci(confidence_level=0.95, method="wilson")
    assert interval(*counted) == pytest.approx((expected.low, expected.high), abs=1e-12)


@untimed
@given(counts(1_000), st.sampled_from([0.8, 0.9, 0.99, 0.999]))
def test_other_levels_agree_with_scipy(counted: tuple[int, int], level: float) -> None:
    expected = binomtest(*counted).proportion_ci(confidence_level=level, method="wilson")
    z = float(norm.ppf((1 + level) / 2))
    assert interval(*counted, z) == pytest.approx((expected.low, expected.high), abs=1e-12)


@untimed
@given(counts())
def test_its_ends_are_the_rates_that_the_score_test_just_accepts(counted: tuple[int, int]) -> None:
    successes, trials = counted
    z = float(norm.ppf(0.975))
    for end in interval(successes, trials):
        distance = abs(successes / trials - end)
        assert distance == pytest.approx(z * math.sqrt(end * (1 - end) / trials), abs=1e-9)


@untimed
@given(counts(10**12))
def test_it_lies_within_zero_and_one_and_holds_the_rate(counted: tuple[int, int]) -> None:
    successes, trials = counted
    low, high = interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    assert low < high


@untimed
@given(counts())
def test_failures_mirror_successes(counted: tuple[int, int]) -> None:
    successes, trials = counted
    low, high = interval(successes, trials)
    mirrored = interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@untimed
@given(counts(10_000))
def test_more_trials_of_the_same_rate_narrow_it(counted: tuple[int, int]) -> None:
    successes, trials = counted
    low, high = interval(successes, trials)
    narrower_low, narrower_high = interval(4 * successes, 4 * trials)
    assert narrower_high - narrower_low < high - low


@untimed
@given(st.integers(1, 10**9))
def test_at_the_ends_it_touches_zero_and_one_exactly(trials: int) -> None:
    assert interval(0, trials)[0] == 0.0
    assert interval(trials, trials)[1] == 1.0


def test_without_trials_nothing_is_known() -> None:
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {trials}"):
        wilson_interval(successes, trials)


def test_many_at_once_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 500, 200)
    successes = rng.binomial(trials, rng.random(200))
    found = wilson_intervals(successes / trials, trials.astype(np.float64))
    for ours, theirs in zip(found, proportion_confint(successes, trials, method="wilson"), strict=True):
        assert ours == pytest.approx(np.clip(theirs, 0, 1), abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_intervals_of_a_mean_are_those_of_statsmodels(level: float) -> None:
    values = np.random.default_rng(1).normal(size=23)
    described, error = DescrStatsW(values), values.std(ddof=1) / math.sqrt(23)
    by_t, by_z = described.tconfint_mean(1 - level), described.zconfint_mean(1 - level)
    assert values.mean() + float(t_half_width(error, 22, level)) == pytest.approx(by_t[1], rel=1e-9)
    assert values.mean() + float(normal_half_width(error, level)) == pytest.approx(by_z[1], rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_intervals_of_a_correlation_are_those_of_scipy(seed: int) -> None:
    x, noise = np.random.default_rng(seed).normal(size=(2, 30 + seed))
    wanted = pearsonr(x, x * (seed - 5) / 5 + noise)
    assert fisher_interval(wanted.statistic, 30 + seed) == pytest.approx(tuple(wanted.confidence_interval()))


def test_of_a_straight_line_the_interval_has_no_width() -> None:
    assert fisher_interval(-1.0, 4) == (-1.0, -1.0)
