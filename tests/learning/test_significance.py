"""p-values and clustered errors against scipy and statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ztest

from closeloop.learning.significance import (
    Difference,
    Moments,
    benjamini_hochberg,
    benjamini_yekutieli,
    clustered_error,
    difference_of_means,
    normal_p,
    student_p,
)

Floats = NDArray[np.float64]
p_values = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0])), min_size=1, max_size=60)


@given(p_values)
def test_false_discovery_rates_are_those_of_scipy_and_statsmodels(p: list[float]) -> None:
    found = benjamini_hochberg(np.array(p))
    assert found == pytest.approx(stats.false_discovery_control(p, method="bh"), abs=1e-15)
    assert found == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-15)


def test_no_tests_have_no_rates() -> None:
    assert len(benjamini_hochberg(np.empty(0))) == len(benjamini_yekutieli(np.empty(0))) == 0


@given(p_values)
def test_rates_of_dependent_tests(p: list[float]) -> None:
    found = benjamini_yekutieli(np.array(p))
    assert found == pytest.approx(stats.false_discovery_control(p, method="by"), abs=1e-15)
    assert found == pytest.approx(multipletests(p, method="fdr_by")[1], abs=1e-15)


@given(st.floats(-50, 50), st.floats(1, 1000))
def test_p_of_a_t_and_of_a_z(value: float, freedom: float) -> None:
    assert float(student_p(value, freedom)) == pytest.approx(2 * stats.t.sf(abs(value), freedom), rel=1e-12)
    assert float(normal_p(value)) == pytest.approx(2 * stats.norm.sf(abs(value)), rel=1e-12)


def moments(values: Floats, stratum: NDArray[np.int64], strata: int) -> Moments:
    """Of one candidate: arrays (1, strata)."""
    parts = [values[stratum == s] for s in range(strata)]
    columns = [[len(part), part.mean(), np.square(part - part.mean()).sum()] for part in parts]
    n, mean, deviations = np.array(columns, np.float64).T[:, None, :]
    return Moments(n, mean, deviations)


def of_two(a: Floats, b: Floats) -> Difference:
    one = np.zeros(max(len(a), len(b)), np.int64)
    usable = np.array([[True]])
    return difference_of_means(moments(a, one[: len(a)], 1), moments(b, one[: len(b)], 1), usable, 0.0, 0.95)


@pytest.mark.parametrize("seed", range(30))
def test_a_difference_is_the_less_sure_one_of_welch_and_the_pooled_z(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(0.3, rng.uniform(0.2, 3), rng.integers(3, 60))
    b = rng.normal(0, 1, rng.integers(3, 60))
    found = of_two(a, b)
    welch = stats.ttest_ind(a, b, equal_var=False)
    z, z_p = ztest(a, b, usevar="pooled")
    assert found.effect[0] == pytest.approx(a.mean() - b.mean())
    assert found.t[0] == pytest.approx(abs(welch.statistic))
    assert found.p[0] == pytest.approx(max(welch.pvalue, z_p), rel=1e-9)
    half = max(welch.confidence_interval().high - found.effect[0], stats.norm.ppf(0.975) * abs(found.effect[0] / z))
    assert found.half_width[0] == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_a_difference_within_strata_is_the_coefficient_of_a_regression_with_their_effects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, strata = 300, 4
    stratum, inside = rng.integers(0, strata, n), rng.random(n) < 0.3
    y = rng.normal(0, 1, n) + stratum + 0.2 * inside
    found = difference_of_means(
        moments(y[inside], stratum[inside], strata),
        moments(y[~inside], stratum[~inside], strata),
        np.ones((1, strata), np.bool_),
        0.0,
        0.95,
    )
    regression = sm.OLS(y, np.column_stack((inside, stratum[:, None] == np.arange(strata))).astype(float)).fit()
    assert found.effect[0] == pytest.approx(regression.params[0])
    # The variances differ: each stratum's own, and one for all; with equal ones in truth they are close.
    assert found.half_width[0] == pytest.approx(regression.conf_int()[0, 1] - regression.params[0], rel=0.1)


def test_a_stratum_that_is_not_usable_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(size=40)
    stratum = np.repeat([0, 1], 20)
    whole = difference_of_means(moments(a, stratum, 2), moments(b, stratum, 2), np.array([[True, False]]), 0.0, 0.95)
    assert [each[0] for each in whole] == pytest.approx([each[0] for each in of_two(a[:20], b[:20])])


def test_what_rounding_leaves_is_no_difference_and_no_variance_is_a_certainty() -> None:
    flat, one = Moments(*np.array([[[9.0]], [[1.0]], [[0.0]]])), np.array([[True]])
    above = Moments(*np.array([[[9.0]], [[1.0 + 1e-9]], [[0.0]]]))
    assert difference_of_means(above, flat, one, 1e-8, 0.95).p.tolist() == [1.0]
    assert difference_of_means(above, flat, one, 0.0, 0.95).p.tolist() == [0.0]


@pytest.mark.parametrize("seed", range(10))
def test_the_error_of_a_mean_clustered_by_days_is_that_of_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    day = rng.integers(0, 12, 200)
    y = rng.normal(0, 1, 200) + rng.normal(0, 1, 12)[day]
    groups, cluster = np.unique(day, return_inverse=True)
    found = clustered_error(np.bincount(cluster, y - y.mean()) / len(y), len(groups))
    wanted = sm.OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": cluster})
    assert float(found) == pytest.approx(wanted.bse[0])
    # As if the trades of a day were independent it would be another one.
    assert abs(float(found) / (y.std(ddof=1) / np.sqrt(len(y))) - 1) > 0.1


def test_one_cluster_has_no_error() -> None:
    assert not np.isfinite(clustered_error(np.array([0.5]), 1))


def test_errors_of_many_estimates_at_once() -> None:
    added = np.random.default_rng(1).normal(size=(5, 7))
    assert clustered_error(added, np.full(5, 7)) == pytest.approx([float(clustered_error(row, 7)) for row in added])
