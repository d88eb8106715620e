"""Producer health from heartbeats."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from closeloop.learning.health import Health, assess
from closeloop.models.policy import ProducersPolicy

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def health(successes: int, failures: int, minutes: float = 0) -> Health:
    last = NOW - timedelta(minutes=minutes) if successes else None
    return assess(successes, failures, last, NOW, ProducersPolicy())


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1e6))
def test_the_score_is_the_lower_end_of_success_times_freshness(successes: int, failures: int, minutes: float) -> None:
    found = health(successes, failures, minutes)
    n = successes + failures
    if n < 20:
        assert (found.state, found.score) == ("stale" if successes and minutes > 60 else "unknown", None)
        return
    low = binomtest(successes, n).proportion_ci(method="wilson").low
    fresh = 0 if successes == 0 else min(1, 60 / minutes) if minutes else 1
    assert found.score == pytest.approx(low * fresh, rel=1e-6, abs=1e-12)
    assert found.error_rate == pytest.approx(failures / n)
    assert found.error_low is not None
    assert found.error_high is not None
    assert found.error_low <= found.error_rate <= found.error_high


def test_nineteen_observations_say_nothing_and_twenty_do() -> None:
    assert health(19, 0).score is None
    assert "19 of the 20" in health(19, 0).reason
    assert health(20, 0).state == "healthy"
    assert health(0, 0) == Health("unknown", 0, None, None, None, None, 0.0, None, health(0, 0).reason)


def test_silence_makes_stale_after_an_hour_and_keeps_lowering_the_score() -> None:
    assert health(100, 0, 60).state == "healthy"
    assert health(100, 0, 60.1).state == "stale"
    scores = [health(100, 0, minutes).score or 0 for minutes in (0, 60, 90, 120, 1e5)]
    assert scores[0] == scores[1] > scores[2] > scores[3] > scores[4] > 0
    assert scores[3] == pytest.approx(scores[0] / 2)


def test_a_producer_that_never_succeeded_scores_nothing() -> None:
    found = health(0, 50)
    assert (found.state, found.score, found.staleness_minutes) == ("failing", 0.0, None)
    assert "no success on record" in found.reason


def test_more_of_the_same_earns_more_trust() -> None:
    scores = [health(9 * n, n).score or 0 for n in (2, 10, 100, 1000)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] < 0.9


@pytest.mark.parametrize(
    ("successes", "failures", "state"), [(60, 40, "healthy"), (45, 55, "healthy"), (40, 61, "failing")]
)
def test_failing_where_surely_more_than_half_fail(successes: int, failures: int, state: str) -> None:
    assert health(successes, failures).state == state


def test_who_was_last_heard_before_the_window_is_stale() -> None:
    found = assess(0, 0, NOW - timedelta(days=8), NOW, ProducersPolicy())
    assert (found.state, found.score) == ("stale", None)


def test_a_clock_that_runs_ahead_is_fresh() -> None:
    assert health(30, 0, -5).staleness_minutes == 0
    assert health(30, 0, -5).score == health(30, 0).score


@pytest.mark.parametrize(("successes", "failures", "last"), [(-1, 0, None), (0, -1, None), (5, 0, None)])
def test_impossible_counts_are_refused(successes: int, failures: int, last: datetime | None) -> None:
    with pytest.raises(ValueError, match=r"heartbeats cannot|no time of the last one"):
        assess(successes, failures, last, NOW, ProducersPolicy())
