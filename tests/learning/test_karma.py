"""Karma against its closed form, in exact arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeloop.learning.karma import karma_of, karma_step

outcomes = st.lists(st.sampled_from([1, -1]), max_size=60)
starts = st.floats(-1.0, 1.0)
alphas = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def closed_form(outcomes: list[int], start: float, alpha: float) -> float:
    """(1-a)^n * start + a * sum of (1-a)^(n-1-i) * y_i."""
    a, n = Fraction(alpha), len(outcomes)
    return float((1 - a) ** n * Fraction(start) + a * sum((1 - a) ** (n - 1 - i) * y for i, y in enumerate(outcomes)))


@untimed
@given(outcomes, starts, alphas)
def test_it_is_the_exponentially_weighted_sum(outcomes: list[int], start: float, alpha: float) -> None:
    assert karma_of(outcomes, start, alpha) == pytest.approx(closed_form(outcomes, start, alpha), abs=1e-12)


@untimed
@given(outcomes, starts, alphas)
def test_it_never_leaves_minus_one_to_one(outcomes: list[int], start: float, alpha: float) -> None:
    assert -1.0 <= karma_of(outcomes, start, alpha) <= 1.0


@untimed
@given(starts, alphas)
def test_a_win_never_lowers_it_and_a_loss_never_raises_it(karma: float, alpha: float) -> None:
    assert karma_step(karma, -1, alpha) <= karma + 1e-15
    assert karma_step(karma, 1, alpha) >= karma - 1e-15


@untimed
@given(outcomes, outcomes, starts, st.floats(0.01, 0.5))
def test_the_order_matters(before: list[int], after: list[int], start: float, alpha: float) -> None:
    win_last = karma_of([*before, -1, 1, *after[:20]], start, alpha)
    loss_last = karma_of([*before, 1, -1, *after[:20]], start, alpha)
    assert win_last > loss_last


@untimed
@given(outcomes, outcomes, starts, alphas)
def test_a_rebuild_gives_what_the_steps_gave(early: list[int], late: list[int], start: float, alpha: float) -> None:
    """Bit for bit, so that a rebuild can be compared with what was stored."""
    assert karma_of(early + late, start, alpha) == karma_of(late, karma_of(early, start, alpha), alpha)


@untimed
@given(starts, alphas)
def test_without_outcomes_it_is_where_it_started(start: float, alpha: float) -> None:
    assert karma_of([], start, alpha) == start


@pytest.mark.parametrize(
    ("before", "outcome", "after"), [(1.0, 1, 1.0), (1.0, -1, 0.9), (0.95, 1, 0.9525), (0.0, -1, -0.05)]
)
def test_the_step_of_the_seed(before: float, outcome: int, after: float) -> None:
    assert karma_step(before, outcome, 0.05) == pytest.approx(after, abs=1e-15)


def test_it_reads_an_iterator_once() -> None:
    assert karma_of(iter([1, -1]), start=1.0, alpha=0.05) == karma_of([1, -1], start=1.0, alpha=0.05)
