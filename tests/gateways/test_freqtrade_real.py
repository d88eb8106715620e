"""An export of freqtrade, compared with the file itself: a sample, and a real one (179 longs of January 2018)."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from closeloop.learning.attribution import hours_held, is_win, r_multiple
from closeloop.models.positions import ClosedPosition
from tests.gateways.exports import messages, read, zipped


@pytest.fixture(scope="module")
def content(data: Callable[[str], Path]) -> bytes:
    return data("freqtrade-backtest-2018.json").read_bytes()


@pytest.fixture(scope="module")
def trades(content: bytes) -> list[dict[str, Any]]:
    """The trades as the file has them, without those that only the end of its data closed."""
    found: list[dict[str, Any]] = json.loads(content)["strategy"]["StrategyTestV3"]["trades"]
    return [trade for trade in found if trade["exit_reason"] != "force_exit"]


@pytest.fixture(scope="module")
def positions(content: bytes) -> list[ClosedPosition]:
    """The trades as closed positions, on their way through JSON as in an import."""
    return [ClosedPosition.model_validate_json(json.dumps(m, allow_nan=False)) for m in messages(content)]


def exact(number: float) -> Fraction:
    """The decimal that the file shows, exactly."""
    return Fraction(Decimal(repr(number)))


def net(trade: dict[str, Any], fee: float) -> Fraction:
    """What rates and fees give; exactly nothing where the file's ratio says so."""
    amount, fees = exact(trade["amount"]), exact(fee)
    paid, got = amount * exact(trade["open_rate"]) * (1 + fees), amount * exact(trade["close_rate"]) * (1 - fees)
    return got - paid if trade["profit_ratio"] else Fraction(0)


def test_every_trade_is_a_valid_position(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    assert len(positions) == len(trades) >= 60
    assert {position.book for position in positions} == {"StrategyTestV3"}
    assert {position.direction for position in positions} == {"long"}


def test_the_result_of_the_whole(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    total = sum(position.realized_pnl for position in positions)
    assert float(total) == pytest.approx(float(sum(net(trade, 0.0025) for trade in trades)), rel=1e-9)


def test_the_figures_of_the_real_one(shared_data: Callable[[str], Path]) -> None:
    """Its profit_abs is gross, its profit_ratio net; its summary says 48 wins, 122 draws, 9 losses, of which 3 cut."""
    content = shared_data("freqtrade-backtest-2018.json").read_bytes()
    found = read(content)
    assert [item.index for item in found if item.still_open] == [
        index
        for index, trade in enumerate(json.loads(content)["strategy"]["StrategyTestV3"]["trades"])
        if trade["exit_reason"] == "force_exit"
    ]
    assert sum(item.corrected for item in found) == 176
    positions = [ClosedPosition.model_validate_json(json.dumps(m, allow_nan=False)) for m in messages(content)]
    assert len(positions) == 176
    assert len({position.symbol for position in positions}) == 10
    total = sum(position.realized_pnl for position in positions)
    assert float(total) == pytest.approx(0.0002915, abs=1e-15)
    assert sum(is_win(position.realized_pnl) for position in positions) == 48
    assert sum(position.realized_pnl == 0 for position in positions) == 122
    assert Counter(position.exit_reason for position in positions) == {"roi": 170, "stop_loss": 6}
    assert Counter(position.producers for position in positions) == {("StrategyTestV3",): 175, ("buy_tag",): 1}


def test_they_come_in_the_file_s_order(content: bytes, trades: list[dict[str, Any]]) -> None:
    found = read(content)
    assert [item.index for item in found] == list(range(len(found)))
    assert {item.book for item in found} == {"StrategyTestV3"}
    assert [item.message["symbol"] for item in found if item.message] == [trade["pair"] for trade in trades]


def test_ids_are_unique_and_the_same_on_a_second_read(content: bytes, trades: list[dict[str, Any]]) -> None:
    ids = [message["position_id"] for message in messages(content)]
    assert len(set(ids)) == len(trades)
    assert ids == [message["position_id"] for message in messages(content)]
    assert ids == [message["position_id"] for message in messages(content, book="mine")]


def test_money_is_what_the_file_shows_to_the_last_digit(
    positions: list[ClosedPosition], trades: list[dict[str, Any]]
) -> None:
    fields = {"entry_price": "open_rate", "exit_price": "close_rate", "size": "amount"}
    for position, trade in zip(positions, trades, strict=True):
        for ours, theirs in fields.items():
            assert Fraction(getattr(position, ours)) == exact(trade[theirs])


def test_times_are_the_file_s(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    for position, trade in zip(positions, trades, strict=True):
        assert position.opened_at == datetime.fromisoformat(trade["open_date"])
        assert position.opened_at.timestamp() * 1000 == trade["open_timestamp"]
        assert position.closed_at.timestamp() * 1000 == trade["close_timestamp"]
        assert hours_held(position.opened_at, position.closed_at) * 60 == pytest.approx(trade["trade_duration"])


def test_risk_is_the_way_to_the_first_stop(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    for position, trade in zip(positions, trades, strict=True):
        way = exact(trade["open_rate"]) - exact(trade["initial_stop_loss_abs"])
        assert position.risk is not None
        assert float(position.risk) == pytest.approx(float(way * exact(trade["amount"])), rel=1e-12)
        # The strategy stops at 10 % of a stake of 0.001 BTC.
        assert float(position.risk) == pytest.approx(0.1 * trade["stake_amount"], rel=1e-6)


def test_excursions_are_percent_of_the_entry(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    for position, trade in zip(positions, trades, strict=True):
        entry = exact(trade["open_rate"])
        down = max(Fraction(0), 1 - exact(trade["min_rate"]) / entry)
        up = max(Fraction(0), exact(trade["max_rate"]) / entry - 1)
        assert position.max_drawdown_pct == pytest.approx(float(100 * down), rel=1e-12)
        assert position.max_favorable_pct == pytest.approx(float(100 * up), rel=1e-12)


def test_a_stop_loss_costs_about_one_r(positions: list[ClosedPosition]) -> None:
    """Money, size, risk and exit reason fit together: a stopped trade lost its risk and the fees."""
    stopped = [position for position in positions if position.exit_reason == "stop_loss"]
    assert len(stopped) == 6  # in both
    for position in stopped:
        assert r_multiple(position.realized_pnl, position.risk) == pytest.approx(-1.0, abs=0.1)
        assert position.max_drawdown_pct == pytest.approx(10.0, abs=0.5)


def test_reasons_and_producers(positions: list[ClosedPosition], trades: list[dict[str, Any]]) -> None:
    assert [position.exit_reason for position in positions] == [trade["exit_reason"] for trade in trades]
    said = [(trade["enter_tag"] or "StrategyTestV3",) for trade in trades]
    assert [position.producers for position in positions] == said
    assert len(set(said)) == 2


def test_the_context_says_timeframe_and_leverage(positions: list[ClosedPosition]) -> None:
    for position in positions:
        assert position.entry_context == {"timeframe": "5m", "leverage": 1.0}


def test_another_book_changes_the_book_only(content: bytes) -> None:
    own, mine = messages(content), messages(content, book="mine")
    assert {message["book"] for message in mine} == {"mine"}
    assert [message | {"book": "StrategyTestV3"} for message in mine] == own


def test_zipped_as_newer_versions_do_it_reads_the_same(content: bytes) -> None:
    archive = zipped({"backtest-result-2018_config.json": b"{}", "backtest-result-2018.json": content})
    assert read(archive) == read(content)
