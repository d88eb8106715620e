"""What a trade risked and earned: over all its fills, net of fees, and null where the file contradicts itself."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways.exports import export, message, position, read, reason, short, trade


def entry(amount: float, price: float, **more: Any) -> dict[str, Any]:
    return {"ft_is_entry": True, "amount": amount, "safe_price": price, "order_filled_timestamp": 1} | more


def leave(amount: float, price: float) -> dict[str, Any]:
    return entry(amount, price) | {"ft_is_entry": False}


def noted(one: dict[str, Any]) -> list[str]:
    [found] = read(export(one))
    return [note.field for note in found.notes]


# Fills


def test_a_position_left_in_three_parts_is_measured_from_what_was_bought() -> None:
    """20 at 50, stop 45: risk 100. 12 out at 60, 5 at 55, 3 at 48: 120 + 25 - 6. amount is the last exit's."""
    orders = [entry(20, 50), leave(12, 60), leave(5, 55), leave(3, 48)]
    rates = {"open_rate": 50.0, "close_rate": 48.0, "initial_stop_loss_abs": 45.0, "min_rate": 47.0}
    found = position(
        trade(orders=orders, amount=3.0, stake_amount=150.0, profit_abs=139.0, profit_ratio=0.139, **rates)
    )
    assert (found.size, found.risk, found.realized_pnl) == (20, 100, 139)
    assert found.max_drawdown_pct == 6.0


def test_a_short_of_two_entries_with_leverage() -> None:
    """1 at 100 and 3 at 120, stop 130: 30 + 30. Its excursions are of an average that moved."""
    found = position(
        short(
            orders=[entry(1, 100), entry(3, 120), leave(4, 90)], amount=4.0, leverage=4.0, initial_stop_loss_abs=130.0
        )
    )
    assert (found.size, found.risk) == (4, 60)
    assert (found.max_drawdown_pct, found.max_favorable_pct) == (None, None)


def test_a_fill_beyond_the_stop_risks_nothing_and_no_other_fill_less() -> None:
    assert position(trade(orders=[entry(1, 100), entry(3, 80), leave(4, 110)], amount=4.0)).risk == 10
    assert position(trade(orders=[entry(1, 90), entry(3, 80), leave(4, 110)], amount=4.0)).risk is None


@pytest.mark.parametrize(
    "unfilled",
    [
        entry(50, 100, filled=0.0, status="canceled"),
        entry(50, 100, filled=0, status="open"),
        entry(50, 100, status="expired"),
        entry(50, 100, order_filled_timestamp=None),
        entry(50, 100, filled=None, status="open"),
        entry(50, 100, filled=None, status="rejected", order_filled_timestamp=1),
    ],
)
def test_an_order_that_was_not_filled_is_no_fill(unfilled: dict[str, Any]) -> None:
    found = position(trade(orders=[unfilled, entry(5, 100, filled=2.0, status="canceled"), leave(2, 110)]))
    assert (found.size, found.risk) == (2, 20)
    assert found.max_drawdown_pct == 5.0


@pytest.mark.parametrize("one", [trade, short])
def test_orders_that_do_not_say_which_is_an_entry_say_their_side(one: Any) -> None:
    orders = [entry(1, 100), entry(3, 98 if one is trade else 102), leave(4, 105)]
    bought, sold = ("buy", "sell") if one is trade else ("sell", "buy")
    sides = [{"ft_order_side": bought if order["ft_is_entry"] else sold} for order in orders]
    unsaid = [
        {k: v for k, v in order.items() if k != "ft_is_entry"} | side for order, side in zip(orders, sides, strict=True)
    ]
    found = position(one(orders=unsaid))
    assert (found.size, found.risk) == (4, 34)
    assert noted(one(orders=unsaid)) == []
    assert noted(one(orders=[{"amount": 4, "safe_price": 100}])) == ["orders"]


def test_an_order_may_have_only_what_was_asked_for() -> None:
    """As the database has it where the exchange never told more."""
    orders = [
        {"ft_is_entry": True, "ft_amount": 2.0, "ft_price": 100, "amount": None, "average": None, "price": 0.0},
        entry(2, 96), leave(4, 105),
    ]  # fmt: skip
    found = position(trade(orders=orders))
    assert (found.size, found.risk, found.max_drawdown_pct) == (4, 32, None)


@pytest.mark.parametrize("stake", [10.0, 100.0])
def test_the_profit_of_a_sale_in_parts_without_orders_is_never_cut_to_that_of_its_last_part(stake: float) -> None:
    """Rates, fees and the ratio are of the last part, and agree with each other."""
    parts = fees(
        amount=1.0, stake_amount=stake, open_rate=10.0, close_rate=12.0, profit_abs=19.78, profit_ratio=0.1976024
    )
    parts |= {"initial_stop_loss_abs": 9.0}
    assert result(parts) == (Decimal("19.78"), False)
    assert position(parts).risk is None
    lost = parts | {"close_rate": 9.9, "profit_ratio": -0.01197902}
    assert reason(lost).startswith("profit_abs: ")


def test_a_sale_in_parts_without_orders_has_no_risk_and_says_so() -> None:
    """Its stake and amount are both of the last part: only the profit is of the whole."""
    parts = trade(amount=1.0, stake_amount=100.0, profit_abs=100.0, profit_ratio=0.1)
    assert position(parts).risk is None
    assert noted(parts) == ["amount"]
    stake = trade(amount=1.0, stake_amount=1000.0)
    assert position(stake).risk is None
    assert noted(stake) == ["amount"]


@pytest.mark.parametrize("maximum", [1.0, 200.0, 1000.0, None])
def test_the_greatest_stake_is_never_read(maximum: float | None) -> None:
    assert message(trade(max_stake_amount=maximum)) == message(trade())


def test_amounts_agree_up_to_two_percent_and_with_leverage() -> None:
    assert position(trade(stake_amount=203.9)).risk == 20
    assert position(trade(stake_amount=204.3)).risk is None
    assert position(trade(stake_amount=40.0, leverage=5.0, profit_ratio=0.4875)).risk == 20


# Stops and excursions


@pytest.mark.parametrize(
    ("stop", "ratio", "risk"),
    [
        (0.0, None, None),
        (0.0, -1.0, 200),
        (0.0, -0.99, 200),
        (0.0, 0.0, None),
        (0.0, -0.1, None),
        (None, -0.1, None),
        (90.0, None, 20),
        (90.0, 0.1, 20),
        (90.0, -0.1, 20),
    ],
)
def test_a_stop_of_nothing_is_unset_unless_a_ratio_is_stated(stop: float | None, ratio: Any, risk: Any) -> None:
    assert position(trade(initial_stop_loss_abs=stop, initial_stop_loss_ratio=ratio)).risk == risk


def test_rates_of_nothing_are_unknown_and_the_exit_was_reached() -> None:
    assert position(trade(max_rate=0.0)).max_favorable_pct is None
    assert position(short(min_rate=0.0)).max_favorable_pct is None
    assert position(trade(max_rate=101.0)).max_favorable_pct == 10.0
    assert position(short(min_rate=99.0)).max_favorable_pct == 10.0
    assert position(trade(close_rate=91.0)).max_drawdown_pct == 9.0


# Net


def fees(**changes: Any) -> dict[str, Any]:
    return trade(**({"fee_open": 0.001, "fee_close": 0.002} | changes))


def result(one: dict[str, Any]) -> tuple[Decimal, bool]:
    [found] = read(export(one))
    assert found.message is not None, found.reason
    return Decimal(found.message["realized_pnl"]), found.corrected


NET = Decimal("19.36")  # 2 x 110 x 0.998 - 2 x 100 x 1.001
RATIO = round(19.36 / 200.2, 8)


def test_a_net_figure_stays_as_it_is() -> None:
    assert result(fees(profit_abs=19.36, profit_ratio=RATIO)) == (NET, False)
    assert result(fees(profit_abs=19.360000000000014, profit_ratio=RATIO)) == (Decimal("19.360000000000014"), False)
    # What fees in another currency, or interest, make of it: nothing in the file says that it is wrong.
    assert result(fees(profit_abs=19.1, profit_ratio=0.0954)) == (Decimal("19.1"), False)


def test_a_gross_figure_is_made_net() -> None:
    assert result(fees(profit_abs=20.0, profit_ratio=RATIO)) == (NET, True)
    assert result(fees(profit_abs=20.0, profit_ratio=None)) == (NET, True)
    assert result(fees(profit_abs=20.0, profit_ratio=0.1)) == (NET, True)


def test_a_gross_win_can_be_a_net_loss_also_of_a_short_and_in_the_names_of_2020() -> None:
    """A short sells 2 at 100, and buys at 99.9: 0.2 less fees of 0.2 and 0.3996."""
    sold, bought = 200 * 0.999, 199.8 * 1.002
    one = short(
        fee_open=0.001, fee_close=0.002, close_rate=99.9, profit_abs=0.2, profit_ratio=round(1 - bought / sold, 8)
    )
    assert result(one) == (Decimal("-0.3996"), True)
    one = trade(open_fee=0.001, close_fee=0.002, close_rate=100.1, profit_abs=0.2, profit_ratio=...)
    one["profit_percent"] = round(200.2 * 0.998 / 200.2 - 1, 8)
    assert result(one) == (Decimal("-0.4004"), True)


def test_a_break_even_is_nothing_to_the_last_digit() -> None:
    even = fees(close_rate=100.1 / 0.998)
    for stated in (0.0, 3e-15, -2e-14, 0.6006):
        pnl, corrected = result(even | {"profit_abs": stated, "profit_ratio": 0.0})
        assert (pnl, corrected) == (0, stated != 0)
    # Versions that do not round it show what floating point makes of nothing.
    assert result(even | {"profit_abs": 2e-14, "profit_ratio": 2.2e-16}) == (0, True)
    assert result(fees(profit_abs=1e-9, profit_ratio=5e-12, close_rate=100.1 / 0.998)) == (Decimal("1e-9"), False)


def test_funding_and_parts_are_in_the_net_figure() -> None:
    """10 at 100, 9 out at 110, 1 at 90, half a cent of funding received: 80 - 1 - 1.08 + 0.5 net."""
    orders = [entry(10, 100), leave(9, 110), leave(1, 90)]
    one = fees(orders=orders, amount=1.0, close_rate=90.0, fee_close=0.001, funding_fees=0.5)
    ratio = round(78.42 / 1001, 8)
    assert result(one | {"profit_abs": 78.42, "profit_ratio": ratio}) == (Decimal("78.42"), False)
    assert result(one | {"profit_abs": 80.0, "profit_ratio": ratio}) == (Decimal("78.42"), True)


def test_of_signs_that_differ_the_ratio_s_is_right() -> None:
    assert result(trade(profit_abs=0.5, profit_ratio=-0.001)) == (Decimal("-0.2"), True)
    assert result(trade(profit_abs=0.5, profit_ratio=0.0)) == (0, True)
    assert result(short(profit_abs=-0.5, profit_ratio=0.002, leverage=4.0, stake_amount=50.0)) == (Decimal("0.1"), True)


def test_signs_that_differ_are_refused_where_the_stake_is_not_known() -> None:
    assert reason(trade(profit_abs=0.5, profit_ratio=-0.001, stake_amount=1000.0)).startswith("profit_abs: ")


@given(
    st.floats(0.01, 1e5),
    st.floats(0.5, 2.0),
    st.floats(1e-6, 1e4),
    st.sampled_from([0.0, 0.0005, 0.0025]),
    st.sampled_from([1.0, 3.0, 20.0]),
    st.booleans(),
)
def test_what_freqtrade_computes_is_never_corrected_but_for_a_break_even(
    rate: float, move: float, amount: float, fee: float, leverage: float, is_short: bool
) -> None:
    """profit_abs in freqtrade's own floating point, and its ratio of 8 digits."""
    side, out = (-1 if is_short else 1), rate * move
    opened, closed = amount * rate * (1 + side * fee), amount * out * (1 - side * fee)
    pnl = side * (closed - opened)
    ratio = round((1 - closed / opened if is_short else closed / opened - 1) * leverage, 8)
    one = trade(
        is_short=is_short,
        open_rate=rate,
        close_rate=out,
        amount=amount,
        stake_amount=amount * rate / leverage,
        fee_open=fee,
        fee_close=fee,
        leverage=leverage,
        profit_abs=pnl,
        profit_ratio=ratio,
    )
    [found] = read(export(one))
    assert found.message is not None
    assert found.notes == ()
    expected = Decimal(repr(pnl)) if ratio else Decimal(0)
    assert float(Decimal(found.message["realized_pnl"])) == pytest.approx(float(expected), rel=1e-9, abs=1e-18)
    assert json.dumps(found.message)


# Old names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sell_signal", "exit_signal"),
        ("custom_sell", "custom_exit"),
        ("emergency_sell", "emergency_exit"),
        ("trailing_stop_loss", "trailing_stop_loss"),
    ],
)
def test_an_export_before_an_upgrade_is_the_same_message_after_it(old: str, new: str) -> None:
    before = trade(sell_reason=old, exit_reason=..., buy_tag=" dip ", enter_tag=...)
    assert message(before) == message(trade(exit_reason=new, enter_tag="dip"))
