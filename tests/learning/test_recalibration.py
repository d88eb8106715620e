"""Recalibration against plain Python over the outcomes themselves, and by simulation."""

import math
from collections import defaultdict
from statistics import fmean

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from closeloop.learning.recalibration import Recalibration, isotonic_map, recalibrate
from closeloop.models.policy import ProducersPolicy
from tests.learning import plain_scores
from tests.learning.plain_scores import Outcome

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOUR = 3_600_000_000
DAY = 24 * HOUR
POLICY = ProducersPolicy()

# Round confidences make ties and constant columns common.
confidences = st.one_of(st.integers(0, 20).map(lambda k: k / 20), st.floats(0, 1))
outcome_lists = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=60)


@untimed
@given(outcome_lists)
def test_the_map_is_isotonic_regression_within_its_clip(outcomes: list[Outcome]) -> None:
    p = np.array([p for p, _ in outcomes])
    mapped = isotonic_map(p, np.array([o for _, o in outcomes]))
    grid = np.concatenate([p, np.linspace(0, 1, 101)])
    expected = plain_scores.isotonic(outcomes)
    assert mapped(grid) == pytest.approx([expected(x) for x in grid.tolist()], abs=1e-9)
    n = len(outcomes)
    assert 1 / (n + 2) <= mapped(grid).min() <= mapped(grid).max() <= 1 - 1 / (n + 2)
    assert np.all(np.diff(mapped(np.sort(grid))) >= 0)
    assert list(mapped.x) == sorted(set(mapped.x))


def history(n: int, seed: int, truth: float, step: int = 4 * HOUR, horizon: int = HOUR) -> tuple[NDArray, ...]:  # type: ignore[type-arg]
    """Confidences of 0.45 to 0.95 whose true rate is 0.5 + truth * (p - 0.5): issued, target, confidence, correct."""
    rng = np.random.default_rng(seed)
    issued = np.arange(n) * step
    p = rng.uniform(0.45, 0.95, n)
    return issued, issued + horizon, p, rng.random(n) < 0.5 + truth * (p - 0.5)


LATER = 10**18


@pytest.mark.parametrize("n", [120, 1000])
def test_a_calibrated_producer_is_rarely_recalibrated(n: int) -> None:
    adopted = sum(recalibrate(*history(n, seed, 1.0), LATER, POLICY).adopted for seed in range(200))
    assert adopted <= 8


def test_a_producer_whose_outcomes_overlap_is_rarely_recalibrated() -> None:
    """Calibrated, but every outcome comes in twelve copies of about the same: errors that ignore this would adopt."""
    adopted = 0
    for seed in range(100):
        issued, target, p, o = (np.repeat(column, 12) for column in history(150, seed, 1.0, step=DAY, horizon=DAY))
        adopted += recalibrate(issued + np.tile(np.arange(12), 150), target, p, o, LATER, POLICY).adopted
    assert adopted <= 6


def test_an_overconfident_producer_is_recalibrated_and_to_the_truth() -> None:
    for seed in range(20):
        found = recalibrate(*history(2000, seed, 0.2), LATER, POLICY)
        assert found.adopted
        assert found.reason == "better_out_of_sample"
        assert found.map is not None
        p = np.array([0.55, 0.7, 0.85])
        assert found.map(p) == pytest.approx(0.5 + 0.2 * (p - 0.5), abs=0.12)


def forward(columns: tuple[NDArray, ...], as_of: int) -> tuple[float, float, int, int]:  # type: ignore[type-arg]
    """Gain out of sample, its clustered error, tested outcomes and clusters, one outcome at a time."""
    rows = sorted(row for row in zip(*(c.tolist() for c in columns), strict=True) if row[1] <= as_of)
    start, n = len(rows) // 2, len(rows)
    sizes = [(n - start) // 5 + (i < (n - start) % 5) for i in range(5)]
    period = max([DAY, *(t - i for i, t, _, _ in rows)])
    gains: dict[int, list[float]] = defaultdict(list)
    for size in sizes:
        fold, start = rows[start : start + size], start + size
        train = [(p, o) for _, target, p, o in rows if target <= fold[0][0]]
        if len(train) < 50:
            continue
        mapped = plain_scores.isotonic(train)
        for issued, _, p, o in fold:
            gains[issued // period].append((p - o) ** 2 - (mapped(p) - o) ** 2)
    every = [g for cluster in gains.values() for g in cluster]
    mean, count = fmean(every), len(gains)
    variance = count / (count - 1) * sum(sum(g - mean for g in cluster) ** 2 for cluster in gains.values())
    return mean, math.sqrt(variance) / len(every), len(every), count


@pytest.mark.parametrize("n", [100, 101, 234])
@pytest.mark.parametrize("horizon", [HOUR, 4 * HOUR, 30 * HOUR])
def test_the_evidence_is_that_of_forward_folds(n: int, horizon: int) -> None:
    columns = history(n, n, 0.4, horizon=horizon)
    found = recalibrate(*columns, LATER, POLICY)
    gain, se, tested, clusters = forward(columns, LATER)
    assert (found.gain, found.gain_se) == pytest.approx((gain, se), abs=1e-12)
    assert (found.tested, found.clusters, found.outcomes) == (tested, clusters, n)
    low = gain - stats.t.ppf(0.95, clusters - 1) * se
    assert found.gain_low == pytest.approx(low, abs=1e-12)
    assert found.adopted == (low > 0)
    assert found.brier_before is not None
    assert found.brier_after is not None
    assert found.brier_before - found.brier_after == pytest.approx(gain, abs=1e-12)


def test_nothing_after_as_of_changes_anything() -> None:
    columns = history(500, 3, 0.5, horizon=12 * HOUR)
    as_of = int(columns[1][299])
    early = recalibrate(*(c[:300] for c in columns), as_of, POLICY)
    assert recalibrate(*columns, as_of, POLICY) == early
    assert early.outcomes == 300
    assert recalibrate(*columns, as_of + 4 * HOUR, POLICY) != early


def test_order_does_not_matter() -> None:
    columns = history(300, 1, 0.5)
    order = np.random.default_rng(0).permutation(300)
    found, shuffled = recalibrate(*columns, LATER, POLICY), recalibrate(*(c[order] for c in columns), LATER, POLICY)
    assert found.map == shuffled.map
    assert (found.gain, found.gain_se) == pytest.approx((shuffled.gain, shuffled.gain_se))


def test_too_few_outcomes_are_the_reason_given() -> None:
    few: Recalibration = recalibrate(*history(99, 1, 0.2), LATER, POLICY)
    assert (few.reason, few.map, few.gain, few.adopted) == ("too_few_outcomes", None, None, False)
    short = recalibrate(*history(400, 1, 0.2, step=HOUR // 10), LATER, POLICY)
    assert (short.reason, short.gain, short.adopted) == ("too_few_days", None, False)
    # Horizons so long that nothing had elapsed when the folds began: nothing can be tested.
    blind = recalibrate(*history(400, 1, 0.2, step=HOUR, horizon=400 * HOUR), LATER, POLICY)
    assert (blind.reason, blind.tested, blind.adopted) == ("too_few_days", 0, False)
    assert recalibrate(*(c[:0] for c in history(5, 1, 0.2)), LATER, POLICY).reason == "too_few_outcomes"
