"""Exports in freqtrade's shape, made for tests."""

import io
import json
import zipfile
from typing import Any

from closeloop.gateways.freqtrade import read_freqtrade
from closeloop.gateways.trades import FileTrade
from closeloop.models.positions import ClosedPosition


def trade(**changes: Any) -> dict[str, Any]:
    """A long: in at 100, stop at 90, down to 95, up to 120, out at 110; 2 units. ``...`` drops a field."""
    values = {
        "pair": "ADA/BTC",
        "stake_amount": 200.0,
        "amount": 2.0,
        "open_date": "2018-01-10 07:15:00+00:00",
        "close_date": "2018-01-10 08:45:00+00:00",
        "open_rate": 100.0,
        "close_rate": 110.0,
        "profit_ratio": 0.0975,
        "profit_abs": 19.5,
        "exit_reason": "roi",
        "initial_stop_loss_abs": 90.0,
        "stop_loss_abs": 105.0,
        "min_rate": 95.0,
        "max_rate": 120.0,
        "is_open": False,
        "is_short": False,
        "leverage": 1.0,
        "enter_tag": None,
    } | changes
    return {name: value for name, value in values.items() if value is not ...}


def short(**changes: Any) -> dict[str, Any]:
    """A short: in at 100, stop at 110, up to 104, down to 85, out at 90; 2 units."""
    rates = {"close_rate": 90.0, "initial_stop_loss_abs": 110.0, "min_rate": 85.0, "max_rate": 104.0}
    return trade(**({"is_short": True} | rates | changes))


def export(*trades: Any, strategy: str = "Trend", timeframe: Any = "5m") -> bytes:
    return exports({strategy: {"trades": list(trades), "timeframe": timeframe}})


def exports(strategies: Any) -> bytes:
    return json.dumps({"metadata": {}, "strategy": strategies, "strategy_comparison": []}).encode()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return archive.getvalue()


def read(content: bytes, book: str | None = None) -> list[FileTrade]:
    return list(read_freqtrade(content, book).trades)


def messages(content: bytes, book: str | None = None) -> list[dict[str, Any]]:
    """The messages of an export whose every trade is usable."""
    found = read(content, book)
    assert [item.reason for item in found] == [None] * len(found)
    return [item.message for item in found if item.message is not None]


def message(one: dict[str, Any]) -> dict[str, Any]:
    """The message of this trade, alone in its export."""
    [found] = messages(export(one))
    return found


def position(one: dict[str, Any]) -> ClosedPosition:
    """The position that this trade's message is read as, on its way through JSON as in an import."""
    return ClosedPosition.model_validate_json(json.dumps(message(one), allow_nan=False))


def reason(one: Any) -> str:
    """Why this trade cannot be used."""
    [found] = read(export(one))
    assert found.message is None
    assert found.reason is not None
    return found.reason
