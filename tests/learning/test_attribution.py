"""What a closed position says: win or loss, R, hours."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeloop.learning.attribution import hours_held, is_win, outcome_sign, r_multiple

money = st.decimals(Decimal("-1e12"), Decimal("1e12"), places=12)
risks = st.decimals(Decimal("1e-12"), Decimal("1e12"), places=12)
instants = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@untimed
@given(money)
def test_only_money_made_is_a_win(pnl: Decimal) -> None:
    won = Fraction(pnl) > 0
    assert is_win(pnl) is won
    assert outcome_sign(pnl) == (1 if won else -1)


@pytest.mark.parametrize("nothing", ["0", "-0", "0.000", "0E+9"])
def test_break_even_is_not_a_win_and_is_zero_r(nothing: str) -> None:
    assert not is_win(Decimal(nothing))
    assert outcome_sign(Decimal(nothing)) == -1
    assert r_multiple(Decimal(nothing), Decimal("5")) == 0.0


@untimed
@given(money, risks)
def test_r_is_the_result_in_units_of_the_risk(pnl: Decimal, risk: Decimal) -> None:
    rr = r_multiple(pnl, risk)
    assert rr == pytest.approx(float(Fraction(pnl) / Fraction(risk)), rel=1e-15)
    assert (rr is not None and rr > 0) is is_win(pnl)


@untimed
@given(risks)
def test_a_full_stop_is_minus_one_r(risk: Decimal) -> None:
    assert r_multiple(-risk, risk) == -1.0


@untimed
@given(money)
def test_an_unknown_risk_is_never_guessed(pnl: Decimal) -> None:
    assert r_multiple(pnl, None) is None


@untimed
@given(instants, st.timedeltas(timedelta(0), timedelta(days=3650)), offsets, offsets)
def test_hours_are_between_instants_whatever_the_offsets(
    opened: datetime, held: timedelta, here: timezone, there: timezone
) -> None:
    hours = hours_held(opened.astimezone(here), (opened + held).astimezone(there))
    assert hours == pytest.approx(float(Fraction(held // timedelta(microseconds=1), 3_600_000_000)), rel=1e-15)


@untimed
@given(instants)
def test_a_position_closed_at_once_was_held_no_time(instant: datetime) -> None:
    assert hours_held(instant, instant) == 0.0
