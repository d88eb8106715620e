"""Karma against its closed form, in exact arithmetic."""

from fractions import Fraction
from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeloop.learning.karma import karma_step
from closeloop.models.policy import KarmaPolicy
from tests.learning.plain_karma import karma_of

outcomes = st.lists(st.sampled_from([1, -1]), max_size=60)
starts = st.floats(-1.0, 1.0)
policies = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True).map(lambda alpha: KarmaPolicy(alpha=alpha))
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def stepped(outcomes: list[int], start: float, karma: KarmaPolicy) -> float:
    return reduce(lambda before, outcome: karma_step(before, outcome, karma), outcomes, start)


def closed_form(outcomes: list[int], start: float, alpha: float) -> float:
    """(1-a)^n * start + a * sum of (1-a)^(n-1-i) * y_i."""
    a, n = Fraction(alpha), len(outcomes)
    return float((1 - a) ** n * Fraction(start) + a * sum((1 - a) ** (n - 1 - i) * y for i, y in enumerate(outcomes)))


@untimed
@given(outcomes, starts, policies)
def test_it_is_the_exponentially_weighted_sum(outcomes: list[int], start: float, karma: KarmaPolicy) -> None:
    assert stepped(outcomes, start, karma) == pytest.approx(closed_form(outcomes, start, karma.alpha), abs=1e-12)


@untimed
@given(outcomes, starts, policies)
def test_the_plain_karma_of_the_tests_is_the_same_bit_for_bit(
    outcomes: list[int], start: float, karma: KarmaPolicy
) -> None:
    assert karma_of(outcomes, start, karma.alpha) == stepped(outcomes, start, karma)


@untimed
@given(outcomes, starts, policies)
def test_it_never_leaves_minus_one_to_one(outcomes: list[int], start: float, karma: KarmaPolicy) -> None:
    assert -1.0 <= stepped(outcomes, start, karma) <= 1.0


@untimed
@given(starts, policies)
def test_a_win_never_lowers_it_and_a_loss_never_raises_it(before: float, karma: KarmaPolicy) -> None:
    assert karma_step(before, -1, karma) <= before + 1e-15
    assert karma_step(before, 1, karma) >= before - 1e-15


@untimed
@given(outcomes, outcomes, starts, st.floats(0.01, 0.5))
def test_the_order_matters(before: list[int], after: list[int], start: float, alpha: float) -> None:
    karma = KarmaPolicy(alpha=alpha)
    win_last = stepped([*before, -1, 1, *after[:20]], start, karma)
    loss_last = stepped([*before, 1, -1, *after[:20]], start, karma)
    assert win_last > loss_last


@pytest.mark.parametrize(
    ("before", "outcome", "after"), [(1.0, 1, 1.0), (1.0, -1, 0.9), (0.95, 1, 0.9525), (0.0, -1, -0.05)]
)
def test_the_step_of_the_seed(before: float, outcome: int, after: float) -> None:
    assert karma_step(before, outcome, KarmaPolicy()) == pytest.approx(after, abs=1e-15)
