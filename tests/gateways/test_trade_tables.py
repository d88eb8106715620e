"""Tables of other engines' trades: each ready map on a file of that engine's shape, and the right numbers."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from closeloop.gateways.trade_tables.maps import load_map, ready_names
from closeloop.gateways.trade_tables.reading import TradeTable, open_table
from closeloop.gateways.trades import FileTrade, NotTrades
from closeloop.models.positions import ClosedPosition


def opened(
    content: bytes | str, name: str | None = None, book: str | None = "B", symbol: str | None = None
) -> TradeTable:
    return open_table(io.BytesIO(content.encode() if isinstance(content, str) else content), name, book, symbol)


def trades(content: bytes | str, name: str | None = None, **said: Any) -> list[FileTrade]:
    found = list(opened(content, name, **said).trades().trades)
    for one in found:
        if one.message is not None and min(float(one.message[f"{e}_price"]) for e in ("entry", "exit")) > 0:
            # What a reader gives is a message that is accepted.
            ClosedPosition.model_validate_json(json.dumps(one.message))
    return found


def table(*rows: dict[str, Any], delimiter: str = ",") -> str:
    """A CSV file of rows, with the columns of the first."""
    made = io.StringIO()
    writer = csv.DictWriter(made, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(content: bytes | str, name: str | None = None, **said: Any) -> str:
    with pytest.raises(NotTrades) as error:
        trades(content, name, **said)
    return str(error.value)


def parts(trade: FileTrade) -> tuple[Any, ...]:
    """What a trade says: direction, entry, exit, size, PnL, risk, excursions."""
    assert trade.message is not None, trade.reason
    names = ("entry_price", "exit_price", "size", "realized_pnl", "risk", "max_drawdown_pct", "max_favorable_pct")
    numbers = (None if trade.message.get(n) is None else float(trade.message[n]) for n in names)
    return (trade.message["direction"], *numbers)


# NautilusTrader

EVENT: dict[str, Any] = {
    "type": "PositionClosed",
    "trader_id": "TESTER-000",
    "strategy_id": "EMACross-000",
    "instrument_id": "ETHUSDT-PERP.BINANCE",
    "position_id": "ETHUSDT-PERP.BINANCE-EMACross-000",
    "account_id": "BINANCE-001",
    "opening_order_id": "O-20240301-000100-000-000-1",
    "closing_order_id": "O-20240301-001500-000-000-2",
    "entry": "BUY",
    "side": "FLAT",
    "signed_qty": 0.0,
    "quantity": "0.000",
    "peak_qty": "0.500",
    "last_qty": "0.500",
    "last_px": "3010.00",
    "currency": "USDT",
    "avg_px_open": 3000.0,
    "avg_px_close": 3010.0,
    "realized_return": 0.00333,
    "realized_pnl": "2.58 USDT",
    "event_id": "7c3a",
    "ts_opened": 1709251260000000123,
    "ts_closed": 1709252100000000456,
    "duration_ns": 840000000333,
    "ts_event": 1709252100000000456,
    "ts_init": 1709252100000000456,
}
SHORT_EVENT = EVENT | {
    "entry": "SELL",
    "opening_order_id": "O-3",
    "avg_px_open": 3020.0,
    "avg_px_close": 3030.0,
    "peak_qty": "2.000",
    "realized_pnl": "-1,022.42 USDT".replace(",", ""),
}


def test_nautilus_events() -> None:
    opening = EVENT | {"type": "PositionOpened", "side": "LONG", "quantity": "0.500"}
    odd = EVENT | {"opening_order_id": "O-5", "avg_px_close": float("nan")}
    long, short, bad = trades(lines(opening, EVENT, SHORT_EVENT, odd))
    assert parts(long) == ("long", 3000, 3010, 0.5, 2.58, None, None, None)
    assert parts(short) == ("short", 3020, 3030, 2, -1022.42, None, None, None)
    assert long.message is not None
    assert long.message["position_id"] == "ETHUSDT-PERP.BINANCE-EMACross-000/O-20240301-000100-000-000-1"
    assert long.message["opened_at"] == "2024-03-01T00:01:00+00:00"  # to the microsecond
    assert (long.message["symbol"], long.message["currency"]) == ("ETHUSDT-PERP.BINANCE", "USDT")
    assert [one["producer_id"] for one in long.message["signals"]] == ["EMACross-000"]
    assert "avg_px_close" in (bad.reason or "")
    assert [long.index, short.index, bad.index] == [1, 2, 3]


REPORT = {
    "position_id": "ETHUSDT-PERP.BINANCE-EMACross-000",
    "trader_id": "TESTER-000",
    "strategy_id": "EMACross-000",
    "instrument_id": "ETHUSDT-PERP.BINANCE",
    "account_id": "BINANCE-001",
    "opening_order_id": "O-1",
    "closing_order_id": "O-2",
    "entry": "SELL",
    "side": "FLAT",
    "quantity": "0.000",
    "peak_qty": "1.500",
    "ts_init": "1709251260000000000",
    "ts_opened": "2024-03-01 00:01:00.000000123+00:00",
    "ts_last": "1709252100000000000",
    "ts_closed": "2024-03-01 00:15:00+00:00",
    "duration_ns": "840000000000",
    "avg_px_open": "3000.0",
    "avg_px_close": "2990.0",
    "commissions": "['1.81 USDT']",
    "realized_return": "0.00333",
    "realized_pnl": "13.19 USDT",
    "is_snapshot": "False",
}


def test_nautilus_positions_report() -> None:
    snapshot = REPORT | {
        "position_id": REPORT["position_id"] + "-0f5e2c9a-38d1-4d50-9a6b-0c3d8f1e2b47",
        "opening_order_id": "O-3",
        "entry": "BUY",
        "realized_pnl": "-16.80 USDT",
        "is_snapshot": "True",
    }
    going_on = REPORT | {"opening_order_id": "O-5", "side": "LONG", "ts_closed": "", "avg_px_close": ""}
    odd = REPORT | {"opening_order_id": "O-7", "realized_pnl": "1.00 USDT and more"}
    short, long, still, bad = trades(table(REPORT, snapshot, going_on, odd))
    assert parts(short) == ("short", 3000, 2990, 1.5, 13.19, None, None, None)
    assert parts(long) == ("long", 3000, 2990, 1.5, -16.8, None, None, None)
    assert long.message is not None
    assert long.message["position_id"] == "ETHUSDT-PERP.BINANCE-EMACross-000/O-3", "no random id"
    assert long.message["currency"] == "USDT"
    assert still.still_open
    assert "realized_pnl" in (bad.reason or "")


# Lean

LEAN: dict[str, Any] = {
    "symbol": {"value": "SPY", "id": "SPY R735QTJ8XC9X", "permtick": "SPY"},
    "entryTime": "2024-01-02T15:00:00Z",
    "entryPrice": 400.0,
    "direction": 0,
    "quantity": 10.0,
    "exitTime": "2024-01-03T15:00:00Z",
    "exitPrice": 410.0,
    "profitLoss": 100.0,
    "totalFees": 2.0,
    "mae": -40.0,
    "mfe": 120.0,
    "duration": "1.00:00:00",
    "endTradeDrawdown": -20.0,
    "isWin": True,
    "orderIds": [1, 2],
}


def lean(*rows: Any) -> str:
    return json.dumps({"charts": {}, "totalPerformance": {"tradeStatistics": {}, "closedTrades": rows}}, indent=1)


def test_lean_closed_trades() -> None:
    short = LEAN | {
        "symbols": [{"value": "QQQ"}],
        "direction": 1,
        "entryPrice": "500",
        "exitPrice": "499.9",
        "quantity": "20",
        "profitLoss": "2.0",
        "totalFees": "3.5",
        "mae": "-150",
        "mfe": "250",
    }
    del short["symbol"]
    future = LEAN | {"entryTime": "2024-01-04T15:00:00", "exitTime": "2024-01-05T15:00:00", "profitLoss": 5000.0}
    going_on = LEAN | {"exitTime": None}
    no_fees = {name: value for name, value in LEAN.items() if name != "totalFees"}
    one, two, three, still, bad = trades(lean(LEAN, short, future, going_on, no_fees))
    assert parts(one) == ("long", 400, 410, 10, 98, None, 1.0, 3.0)
    assert parts(two) == ("short", 500, 499.9, 20, -1.5, None, 1.5, 2.5), "gross a win, net a loss"
    assert (one.corrected, two.corrected) == (True, True)
    assert parts(three) == ("long", 400, 410, 10, 4998, None, None, None), "a multiplier of 50"
    assert [note.field for note in three.notes] == ["mae", "mfe"]
    assert still.still_open
    assert "totalFees" in (bad.reason or "")
    assert [one.message and one.message["symbol"] for one in (one, two)] == ["SPY", "QQQ"]


# backtesting.py

BACKTESTING: dict[str, Any] = {
    "": 0,
    "Size": 10,
    "EntryBar": 3,
    "ExitBar": 8,
    "EntryPrice": 100.0,
    "ExitPrice": 110.0,
    "SL": 95.0,
    "TP": "",
    "PnL": 98.0,
    "Commission": 2.0,
    "ReturnPct": 0.098,
    "EntryTime": "2024-05-01 00:00:00",
    "ExitTime": "2024-05-02 00:00:00",
    "Duration": "1 days",
    "Tag": "breakout",
}


def test_backtesting_py() -> None:
    rows = [
        BACKTESTING,
        BACKTESTING | {"Size": 5, "PnL": 24.0, "ExitPrice": 105.0, "Commission": 1.0, "Tag": ""},  # the rest of it
        BACKTESTING | {"Size": -4, "SL": 103.0, "ExitPrice": 99.75, "PnL": -0.6, "Commission": 1.6},
        BACKTESTING | {"EntryTime": "2024-05-03 00:00:00", "ExitTime": "", "ExitPrice": ""},
        BACKTESTING | {"EntryTime": "2024-05-05 00:00:00", "ExitTime": "2024-05-06", "PnL": 100.0},  # gross
        BACKTESTING | {"EntryTime": "2024-05-07 00:00:00", "ExitTime": "2024-05-08", "PnL": 77.0},
    ]
    first, rest, short, still, gross, bad = trades(table(*rows), symbol="EURUSD")
    assert parts(first) == ("long", 100, 110, 10, 98, 50, None, None)
    assert parts(rest) == ("long", 100, 105, 5, 24, 25, None, None)
    assert parts(short) == ("short", 100, 99.75, 4, -0.6, 12, None, None)
    assert still.still_open
    assert (parts(gross)[4], gross.corrected, first.corrected) == (98, True, False)
    assert "PnL" in (bad.reason or "")
    ids = [one.message["position_id"] for one in (first, rest, short) if one.message]
    assert ids == [
        "EURUSD 2024-05-01T00:00:00Z long",
        "EURUSD 2024-05-01T00:00:00Z long 2",
        "EURUSD 2024-05-01T00:00:00Z short",
    ]
    assert "signals" in (first.message or {})
    assert "signals" not in (rest.message or {})


def test_backtesting_py_of_before_has_gross_pnl() -> None:
    old = {name: value for name, value in BACKTESTING.items() if name not in ("Commission", "SL", "TP", "")}
    said = refused(table(old), symbol="EURUSD")
    assert "Commission" in said
    assert "like: backtesting-py" in said
    assert "--symbol" in refused(table(BACKTESTING))
    assert "--book" in refused(table(BACKTESTING), symbol="EURUSD", book=None)
    assert "--symbol must be" in refused(table(BACKTESTING), symbol=" ")


# vectorbt

VECTORBT: dict[str, Any] = {
    "": 0,
    "Exit Trade Id": 0,
    "Column": "BTC-USD",
    "Size": 2.5,
    "Entry Timestamp": "2024-01-01 00:00:00+00:00",
    "Avg Entry Price": 100.0,
    "Entry Fees": 0.25,
    "Exit Timestamp": "2024-01-05 00:00:00+00:00",
    "Avg Exit Price": 108.0,
    "Exit Fees": 0.27,
    "PnL": 19.48,
    "Return": 0.0779,
    "Direction": "Long",
    "Status": "Closed",
    "Position Id": 0,
}


def test_vectorbt() -> None:
    short = VECTORBT | {"Exit Trade Id": 1, "Direction": "Short", "PnL": -20.52}
    going_on = VECTORBT | {"Exit Trade Id": 2, "Status": "Open"}
    nameless = VECTORBT | {"Exit Trade Id": 3, "Column": "0"}
    one, two, still, bad = trades(table(VECTORBT, short, going_on, nameless))
    assert parts(one) == ("long", 100, 108, 2.5, 19.48, None, None, None)
    assert parts(two) == ("short", 100, 108, 2.5, -20.52, None, None, None)
    assert still.still_open
    assert "Column: names no symbol; say --symbol" in (bad.reason or "")
    [named] = trades(table(nameless), symbol="SOL/USDT")
    assert named.message is not None
    assert named.message["symbol"] == "SOL/USDT"
    *_, other = trades(table(nameless, VECTORBT), symbol="SOL/USDT")
    assert "BTC-USD" in (other.reason or ""), "a symbol that is said is not for several"


# Jesse

ORDERS = [
    {"id": "1", "side": "buy", "type": "MARKET", "qty": 2.0, "price": 50.0, "status": "EXECUTED"},
    {"id": "2", "side": "sell", "type": "STOP", "qty": -2.0, "price": 45.0, "status": "CANCELED"},
    {"id": "3", "side": "sell", "type": "STOP", "qty": -2.0, "price": 52.0, "status": "CANCELED"},
    {"id": "4", "side": "sell", "type": "LIMIT", "qty": -2.0, "price": 60.0, "status": "EXECUTED"},
]
JESSE: dict[str, Any] = {
    "id": "9b2d7a52-7f6e-4a07-9d1c-0a8b1c2d3e4f",
    "strategy_name": "Trend",
    "symbol": "SOL-USDT",
    "exchange": "Binance Perpetual Futures",
    "type": "long",
    "entry_price": 50.0,
    "exit_price": 60.0,
    "qty": 2.0,
    "opened_at": 1714521600000,
    "closed_at": 1714525200000,
    "fee": 0.22,
    "size": 100.0,
    "PNL": 19.78,
    "PNL_percentage": 19.78,
    "holding_period": 3600,
    "orders": ORDERS,
}
BEARISH = JESSE | {
    "id": "short-1",
    "type": "short",
    "entry_price": 65.0,
    "qty": 3.0,
    "PNL": 14.6,
    "orders": [
        {"side": "sell", "type": "MARKET", "qty": -1.0, "price": 61.0, "status": "EXECUTED"},
        {"side": "buy", "type": "STOP", "qty": 1.0, "price": 70.0, "status": "CANCELED"},
        {"side": "sell", "type": "LIMIT", "qty": -2.0, "price": 67.0, "status": "EXECUTED"},
        {"side": "buy", "type": "MARKET", "qty": 3.0, "price": 60.0, "status": "EXECUTED"},
    ],
}


@pytest.mark.parametrize("dump", [json.dumps, lambda rows: lines(*rows), lambda rows: json.dumps({"trades": rows})])
def test_jesse(dump: Any) -> None:
    plain = {name: value for name, value in JESSE.items() if name != "orders"} | {"id": "plain"}
    half = JESSE | {"id": "half", "orders": [ORDERS[0], ORDERS[1] | {"qty": -1.0}]}
    rows = [JESSE, BEARISH, plain, half, JESSE | {"id": "open", "closed_at": None}, JESSE | {"id": "odd", "qty": True}]
    long, short, no_orders, part, still, bad = trades(dump(rows))
    assert parts(long) == ("long", 50, 60, 2, 19.78, 10, None, None), "the first stop, not where it moved"
    assert parts(short) == ("short", 65, 60, 3, 14.6, 1 * 9 + 2 * 3, None, None)
    assert (parts(no_orders)[5], no_orders.notes) == (None, ())
    assert (parts(part)[5], [note.field for note in part.notes]) == (None, ["orders"])
    assert still.still_open
    assert bad.reason == "qty: must be a number"
    assert long.message is not None
    assert long.message["opened_at"] == "2024-05-01T00:00:00+00:00"


# Hummingbot

CONFIG = {
    "id": "e1",
    "type": "position_executor",
    "trading_pair": "WLD-USDT",
    "connector_name": "binance_perpetual",
    "side": 1,
    "entry_price": "2.5",
    "amount": "40",
    "leverage": 20,
    "triple_barrier_config": {"stop_loss": "0.03", "take_profit": "0.02"},
}
EXECUTOR: dict[str, Any] = {
    "id": "8NkQ",
    "timestamp": "1717200000.5",
    "type": "position_executor",
    "close_type": "3",
    "close_timestamp": "1717203600",
    "status": "4",
    "config": json.dumps(CONFIG),
    "net_pnl_pct": "0.0192",
    "net_pnl_quote": "1.92",
    "cum_fees_quote": "0.08",
    "filled_amount_quote": "202",
    "is_active": "0",
    "is_trading": "0",
    "custom_info": "{}",
    "controller_id": "bollinger",
}


def test_hummingbot_executors() -> None:
    sold = CONFIG | {"side": 2, "triple_barrier_config": {"stop_loss": None}}
    info = {"close_price": 2.6, "current_position_average_price": 2.4, "side": 2}
    short = EXECUTOR | {
        "id": "s", "close_type": "2", "config": json.dumps(sold), "custom_info": json.dumps(info),
        "net_pnl_quote": "-8.1", "filled_amount_quote": "96", "controller_id": "",
    }  # fmt: skip
    failed = EXECUTOR | {"id": "f", "close_type": "8", "filled_amount_quote": "0.0"}
    going_on = EXECUTOR | {"id": "o", "close_timestamp": "", "is_active": "1"}
    part = EXECUTOR | {"id": "p", "filled_amount_quote": "60"}
    long, sell, still, bad = trades(table(EXECUTOR, short, failed, going_on, part))
    assert parts(long) == ("long", 2.5, 2.55, 40, 1.92, 3.0, None, None), "exit = 2.5 + (1.92 + 0.08) / 40"
    assert parts(sell) == ("short", 2.4, 2.6, 40, -8.1, None, None, None)
    assert still.still_open
    assert "filled_amount_quote" in (bad.reason or "")
    assert long.message is not None
    assert (long.message["exit_reason"], long.message["symbol"]) == ("take_profit", "WLD-USDT")
    assert long.message["opened_at"] == "2024-06-01T00:00:00.500000+00:00"
    assert [still.index, bad.index] == [3, 4]


# Which map


@pytest.mark.parametrize(
    ("content", "name", "symbol"),
    [
        (lines(EVENT), "nautilus-events", None),
        (table(REPORT), "nautilus-report", None),
        (lean(LEAN), "lean", None),
        (table(BACKTESTING), "backtesting-py", "X"),
        (table(VECTORBT), "vectorbt", None),
        (json.dumps([JESSE]), "jesse", None),
        (table(EXECUTOR), "hummingbot-executors", None),
    ],
)
def test_the_map_is_known_by_the_columns(content: str, name: str, symbol: str | None) -> None:
    found = opened(content, symbol=symbol)
    assert (found.map.name, found.guessed) == (name, True)
    assert len(found.map.about) > 10
    assert opened(content, name, symbol=symbol).guessed is False


def test_no_map_fits() -> None:
    said = refused("Ticker;Side;Profit\nAAPL;long;3\n")
    for word in ("Ticker", "Side", "Profit", *ready_names(), "--map", "docs/trade-tables.md"):
        assert word in said
    assert "--map" in refused("")
    assert "--map" in refused("[]")


def test_more_than_one_map_fits() -> None:
    said = refused(table(VECTORBT | BACKTESTING))
    assert "--map backtesting-py or --map vectorbt" in said


# A map of one's own

OWN = """
symbol: Ticker
direction: {column: Side, long: Kauf, short: Verkauf}
opened_at: Eröffnet
closed_at: Geschlossen
timezone: Europe/Berlin
time_format: "%d.%m.%Y %H:%M"
decimal: ","
thousands: "."
entry_price: Einstieg
exit_price: Ausstieg
size: Stück
pnl: {gross: Gewinn, fees: Gebühr}
currency: {value: EUR}
risk: {money: Risiko}
adverse: {column: MAE, unit: percent}
favorable: {column: MFE, unit: ratio}
exit_reason: {column: Grund, none: ["-"]}
producers: [Signal, {value: desk}]
book: {value: depot}
"""
OWN_ROW = {
    "Ticker": "SAP", "Side": "KAUF", "Eröffnet": "15.07.2024 09:30", "Geschlossen": "15.01.2025 09:30",
    "Einstieg": "1.050,50", "Ausstieg": "1.100,50", "Stück": "10", "Gewinn": "500,00 EUR", "Gebühr": "1,5",
    "Risiko": "250", "MAE": "-2,5", "MFE": "0,08", "Grund": "-", "Signal": "ma",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_a_map_of_ones_own(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    text = table(OWN_ROW, OWN_ROW | {"Side": "Verkauf", "MFE": "n/a", "Gewinn": "-500,00"}, delimiter=";")
    content = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    long, short = trades(content, str(file), book=None)
    assert parts(long) == ("long", 1050.5, 1100.5, 10, 498.5, 250, 2.5, 8.0)
    assert parts(short) == ("short", 1050.5, 1100.5, 10, -501.5, 250, 2.5, None)
    assert long.message is not None
    assert (long.book, long.message["currency"]) == ("depot", "EUR")
    assert (long.message["opened_at"], long.message["closed_at"]) == (
        "2024-07-15T07:30:00+00:00", "2025-01-15T08:30:00+00:00",
    )  # fmt: skip
    assert [one["producer_id"] for one in long.message["signals"]] == ["ma", "desk"]
    assert "exit_reason" not in long.message


def test_a_map_like_a_ready_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("like: backtesting-py\nrefused_without: {}\npnl: {net: PnL}\ntimezone: America/New_York\n")
    [one] = trades(table(BACKTESTING), str(file), symbol="X")
    assert one.message is not None
    assert one.message["opened_at"] == "2024-05-01T04:00:00+00:00"


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ("colour: red", "colour"),
        ("timezone: Mars/Base", "timezone"),
        ("epoch: hours", "epoch"),
        ("pnl: {gross: PnL}", "fees"),
        ("pnl: {net: PnL, gross: PnL, fees: F}", "pnl"),
        ("risk: {}", "risk"),
        ("open: [{column: x}]", "open.0"),
        ("like: moneymaker", "like"),
        ("direction: {value: sideways}", "direction"),
        ("size: [", "read"),
        ("adverse: &a [*a]", "anchors"),
    ],
)
def test_maps_that_cannot_be_used(tmp_path: Path, change: str, needle: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"like: vectorbt\n{change}\n" if not change.startswith("like") else change)
    with pytest.raises(NotTrades, match=r"bad\.yaml") as error:
        load_map(str(file))
    assert needle in str(error.value)


def test_maps_that_are_not_there(tmp_path: Path) -> None:
    for name in ("cryptotron", str(tmp_path / "none.yaml"), str(tmp_path)):
        with pytest.raises(NotTrades):
            load_map(name)


# Optional and required columns


@pytest.mark.parametrize(("column", "value"), [("Tag", "x" * 255), ("SL", "abc"), ("Tag", "a\x07b")])
def test_a_bad_optional_column_costs_the_field(column: str, value: str) -> None:
    [one] = trades(table(BACKTESTING | {column: value}), symbol="X")
    assert [note.field for note in one.notes] == [column]
    assert parts(one)[:5] == ("long", 100, 110, 10, 98)


@pytest.mark.parametrize("column", ["Size", "EntryPrice", "ExitPrice", "PnL", "Commission", "EntryTime", "ExitTime"])
@pytest.mark.parametrize("value", ["soon", "1e999", "inf"])
def test_a_bad_required_column_costs_the_row(column: str, value: str) -> None:
    good, bad = trades(table(BACKTESTING, BACKTESTING | {column: value}), symbol="X")
    assert good.reason is None
    assert (bad.reason or "").startswith(f"{column}:")


@pytest.mark.parametrize("stop", ["0.0", "", "nan", "100", "104"])
def test_a_stop_that_is_unset_or_on_the_wrong_side_is_none(stop: str) -> None:
    [one] = trades(table(BACKTESTING | {"SL": stop}), symbol="X")
    assert (parts(one)[5], one.notes) == (None, ())


def test_naive_times_and_bare_numbers_need_the_maps_word(tmp_path: Path) -> None:
    file = tmp_path / "naive.yaml"
    file.write_text("like: backtesting-py\ntimezone: null\n")
    naive, number = trades(table(BACKTESTING, BACKTESTING | {"EntryTime": "1714521600"}), str(file), symbol="X")
    assert "EntryTime" in (naive.reason or "")
    assert "timezone: UTC" in (naive.reason or "")
    assert "epoch" in (number.reason or "")


def test_fees_in_another_currency_are_not_taken_off() -> None:
    [one] = trades(lean(LEAN | {"profitLoss": "100 USD", "totalFees": "2 EUR"}))
    assert "totalFees" in (one.reason or "")


def test_closed_before_it_opened() -> None:
    [one] = trades(table(BACKTESTING | {"ExitTime": "2023-01-01"}), symbol="X")
    assert one.reason == "ExitTime: must not be before EntryTime"


# Hostile files


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x01\x02" * 1000,
        b"\xff\xfe\xff",
        b"\xfe" * 5000,
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"type": "PositionClosed"}\n' + b"[" * 100_000 + b"\n",
        b"PK\x03\x04" + b"\0" * 100,
        b"SQLite format 3\0" + b"\0" * 100,
        b"PAR1aaaa",
        gzip.compress(b"Size,PnL\n" * 100)[:60],
        gzip.compress(b"a" * 30_000_000),
        b"a,b\n" + b'"' + b"x" * 3_000_000,
        ("Size," * 50_000 + "\n").encode(),
        b"Size,Size\n1,2\n",
        b"7",
        b'"text"',
        b"[1, null, [], true]",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_table_is_a_sentence(content: bytes) -> None:
    for name in (None, *ready_names()):
        try:
            found = trades(content, name, symbol="X")
        except NotTrades as error:
            said = str(error)
            assert 10 < len(said) < 3_000
        else:
            assert all(one.reason for one in found)


HOSTILE = [True, None, [], {}, "", "nan", "-", 10**40, -5, "1_000", "١٢", "x" * 5000, {"a": {"b": []}}, 1e308, "\ud800"]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(("row", "name"), [(EVENT, "nautilus-events"), (LEAN, "lean"), (JESSE, "jesse")])
def test_any_value_in_any_field(row: dict[str, Any], name: str, value: Any) -> None:
    made = [row | {field: value} for field in row]
    for found in trades(json.dumps(made), name):
        assert found.message is not None or found.reason or found.still_open


def test_lines_that_are_no_json_cost_themselves() -> None:
    content = lines(EVENT) + "{not json\n" + "x" * 3_000_000 + "\n" + "[]\n" + lines(SHORT_EVENT)
    found = trades(content, "nautilus-events")
    assert [one.reason is None for one in found] == [True, False, False, False, True]
    assert [one.index for one in found] == [0, 1, 2, 3, 4]


# Explained


def test_the_first_rows_are_explained() -> None:
    long, bad = opened(table(BACKTESTING | {"SL": "?"}, BACKTESTING | {"Size": "0"}), symbol="X").explain(5)
    fields = {one.field: (one.column, one.value) for one in long.fields}
    assert fields["realized_pnl"] == ("PnL", "98.0")
    assert fields["direction"] == ("Size", "long")
    assert (long.outcome, long.rr, [note["field"] for note in long.noted]) == ("trade", None, ["SL"])
    assert (bad.outcome, bad.reason) == ("refused", "Size: must not be 0")
    first, second = opened(lines(EVENT | {"type": "PositionOpened"}, EVENT)).explain(5)
    assert (first.outcome, second.outcome) == ("skipped", "trade")


def test_the_example_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "trade-tables.md").read_text()
    journal, own = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("csv", "yaml"))
    file = tmp_path / "journal.yaml"
    file.write_text(own)
    sap, bmw = trades(journal, str(file), book=None)
    assert parts(sap) == ("long", 1050.5, 1100.5, 10, 498.5, 500, None, None)
    assert parts(bmw) == ("short", 90, 92, 20, -41.2, None, None, None)
    assert (sap.book, sap.message and sap.message["currency"], bmw.notes) == ("journal", "EUR", ())


def test_negative_fees_are_not_taken_off() -> None:
    [one] = trades(lean(LEAN | {"totalFees": -2.0}))
    assert "added" in (one.reason or "")


def test_a_quote_that_is_never_closed_is_refused_while_it_is_read() -> None:
    pieces = '","'.join("x\n" * 1_000 for _ in range(1_000))
    assert "is a quote never closed?" in refused(f'a,b\n1,2\n"{pieces}', "backtesting-py", symbol="X/Y")
