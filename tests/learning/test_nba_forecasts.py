"""Forecasts of games, a sample and FiveThirtyEight's of the NBA: scores, decomposition and calibration, recomputed."""

import csv
import math
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from closeloop.learning.calibration import performance, reliability, sums
from closeloop.learning.recalibration import Recalibration, recalibrate
from closeloop.learning.scoring import brier, log_score
from closeloop.models.policy import ProducersPolicy
from tests.learning import plain_scores
from tests.learning.plain_scores import Outcome

HOUR = 3_600_000_000
Games = list[tuple[datetime, float, bool]]


@pytest.fixture(scope="module")
def games(data: Callable[[str], Path]) -> Games:
    with data("fivethirtyeight-nba-games.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (datetime.fromisoformat(r["date"]).replace(tzinfo=UTC), float(r["prob1"]), r["prob1_outcome"] == "1")
        for r in rows
    ]


@pytest.fixture(scope="module")
def outcomes(games: Games) -> list[Outcome]:
    return [(p, o) for _, p, o in games]


def arrays(outcomes: list[Outcome]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([p for p, _ in outcomes]), np.array([o for _, o in outcomes])


def by_season(games: Games) -> NDArray[np.float64]:
    """Sums of each calendar year, added up: what a window of daily sums is."""
    years = np.array([at.year for at, _, _ in games])
    p, o = arrays([(p, o) for _, p, o in games])
    return sums(years - years.min(), p, o, np.ones(len(p)), int(np.ptp(years)) + 1).sum(axis=0, keepdims=True)


def test_every_score_of_the_games(games: Games, outcomes: list[Outcome]) -> None:
    found = performance(by_season(games), ProducersPolicy())
    assert found.outcomes[0] == len(outcomes) == 8886
    for name, expected in plain_scores.scores(outcomes).items():
        assert getattr(found, name)[0] == pytest.approx(expected, abs=1e-12), name
    assert found.correlation[0] == pytest.approx(plain_scores.confidence_correlation(outcomes), abs=1e-12)
    se = plain_scores.standard_error([(p - o) ** 2 for p, o in outcomes])
    assert found.brier_se[0] == pytest.approx(se, abs=1e-12)


def test_the_brier_score_is_exact_and_so_is_its_decomposition(games: Games, outcomes: list[Outcome]) -> None:
    exact = sum((Fraction(p) - o) ** 2 for p, o in outcomes) / len(outcomes)
    p, o = arrays(outcomes)
    assert brier(p, o).mean() == pytest.approx(float(exact), abs=1e-14)
    f = performance(by_season(games), ProducersPolicy())
    parts = f.reliability - f.resolution + f.uncertainty + f.within_bin_variance - f.within_bin_covariance
    assert parts[0] == pytest.approx(float(exact), abs=1e-12)
    assert log_score(p, o).mean() == pytest.approx(
        -math.fsum(math.log(x if y else 1 - x) for x, y in outcomes) / len(p)
    )


def test_the_reliability_diagram(games: Games, outcomes: list[Outcome]) -> None:
    bins = reliability(by_season(games)[0])
    inside = plain_scores.in_bins(outcomes)
    assert [b.outcomes for b in bins] == [len(inside.get(k, [])) for k in range(10)]
    for k, of in inside.items():
        assert bins[k].mean_confidence == pytest.approx(sum(p for p, _ in of) / len(of))
        assert bins[k].hit_rate == pytest.approx(sum(o for _, o in of) / len(of))


def test_they_know_who_wins_and_overrate_the_team_named_first(games: Games) -> None:
    """Informative, but about five points too high, over four times what a perfect forecaster would show."""
    found = performance(by_season(games), ProducersPolicy())
    assert found.brier[0] < found.uncertainty[0]
    assert found.resolution[0] > 5 * found.reliability[0]
    assert found.mean_confidence[0] - found.hit_high[0] > 0.03
    assert found.calibration_error[0] > 4 * found.calibration_error_if_perfect[0]


def recalibrated(games: Games, p: NDArray[np.float64]) -> Recalibration:
    at = np.array([int(t.timestamp()) * 1_000_000 for t, _, _ in games])
    return recalibrate(
        at, at + 3 * HOUR, p, np.array([o for _, _, o in games]), int(at.max()) + 3 * HOUR, ProducersPolicy()
    )


def test_recalibration_sees_it_and_mends_it(games: Games) -> None:
    p = np.array([p for _, p, _ in games])
    found = recalibrated(games, p)
    assert found.adopted
    assert found.tested == len(games) - len(games) // 2
    assert found.clusters == len({at for at, _, _ in sorted(games)[len(games) // 2 :]})
    assert found.map is not None
    lowered = p - found.map(p)
    assert np.mean(lowered) == pytest.approx(p.mean() - np.mean([o for _, _, o in games]), abs=1e-3)


def test_however_confidence_is_bent_the_same_is_learned(games: Games) -> None:
    """Isotonic regression sees the order alone: with the odds cubed, the map undoes the cubing, too."""
    p = np.array([p for _, p, _ in games])
    pushed = p**3 / (p**3 + (1 - p) ** 3)
    found, bent = recalibrated(games, p), recalibrated(games, pushed)
    assert bent.adopted
    assert found.map is not None
    assert bent.map is not None
    assert bent.map(pushed) == pytest.approx(found.map(p), abs=1e-12)
    assert found.gain is not None
    assert bent.gain is not None
    assert bent.gain > 10 * found.gain
