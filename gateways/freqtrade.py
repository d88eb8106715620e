"""Trades exported by freqtrade (``backtesting --export trades``), read as closed positions.

The export is freqtrade's ``BacktestResultType``: ``strategy.<name>.trades[]``. Newer versions put it into a zip file.
"""

import io
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any


class NotAnExport(Exception):
    """The file is not a freqtrade export; the message says why."""


@dataclass(frozen=True)
class ExportedTrade:
    """A trade of the export: its strategy, its place among that one's trades, and the message or why there is none."""

    strategy: str
    index: int
    message: dict[str, Any] | None
    reason: str | None


def read_export(content: bytes, book: str | None = None) -> Iterator[ExportedTrade]:
    """Every trade of an export, as a ``ClosedPosition`` message in ``book``, or else in a book of the strategy's name.

    Raises NotAnExport.
    """
    for strategy, trades, timeframe in _strategies(content):
        times_seen: Counter[str] = Counter()
        for index, trade in enumerate(trades):
            try:
                message = _closed_position(trade, strategy, book or strategy, timeframe, times_seen)
            except _Unusable as error:
                yield ExportedTrade(strategy, index, None, str(error))
            except ArithmeticError:
                yield ExportedTrade(strategy, index, None, "its numbers are too large or too small")
            else:
                yield ExportedTrade(strategy, index, message, None)


class _Unusable(Exception):
    pass


def _strategies(content: bytes) -> Iterator[tuple[str, list[Any], str | None]]:
    try:
        document = _document(content)
    except (ValueError, RecursionError) as error:
        raise NotAnExport(f"it is not JSON ({error})") from None
    strategies = document.get("strategy") if isinstance(document, dict) else None
    if not isinstance(strategies, dict) or not strategies:
        raise NotAnExport('it has no "strategy" section')
    for name, result in strategies.items():
        trades = result.get("trades") if isinstance(result, dict) else None
        if not isinstance(trades, list):
            raise NotAnExport(f'strategy "{name}" has no list of trades')
        timeframe = result.get("timeframe")
        yield name, trades, timeframe if isinstance(timeframe, str) else None


def _document(content: bytes) -> Any:
    if not content.startswith(b"PK\x03\x04"):
        return json.loads(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if name.endswith(".json") and not name.endswith(("_config.json", ".meta.json")):
                    document = json.loads(archive.read(name))
                    if isinstance(document, dict) and "strategy" in document:
                        return document
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise NotAnExport(f"the archive is damaged ({error})") from None
    raise NotAnExport("the archive holds no backtest result")


def _closed_position(
    trade: Any, strategy: str, book: str, timeframe: str | None, times_seen: Counter[str]
) -> dict[str, Any]:
    if not isinstance(trade, dict):
        raise _Unusable("the trade is not an object")
    if trade.get("is_open"):
        raise _Unusable("is_open: the trade has not closed")
    pair, opened_at = trade.get("pair"), _instant(trade, "open_date")
    if not isinstance(pair, str):
        raise _Unusable("pair: must be a text")
    short = bool(trade.get("is_short"))
    direction = "short" if short else "long"
    # The strategy is in the id because one book may take in several, which trade the same pair at the same instant.
    # Position stacking can open a pair twice at one instant: the second and further ones are counted.
    base = f"{strategy} {pair} {opened_at:%Y-%m-%dT%H:%M:%SZ} {direction}"
    times_seen[base] += 1
    position_id = base if times_seen[base] == 1 else f"{base} {times_seen[base]}"

    entry = _decimal(trade, "open_rate")
    size = _decimal(trade, "amount")
    stop = _decimal(trade, "initial_stop_loss_abs")
    lowest, highest = _decimal(trade, "min_rate"), _decimal(trade, "max_rate")
    producer = trade.get("enter_tag") or strategy
    message: dict[str, Any] = {
        "book": book,
        "position_id": position_id,
        "symbol": pair,
        "direction": direction,
        "opened_at": opened_at.isoformat(),
        "closed_at": _instant(trade, "close_date").isoformat(),
        "entry_price": _text(entry),
        "exit_price": _text(_decimal(trade, "close_rate")),
        "size": _text(size),
        "realized_pnl": _text(_decimal(trade, "profit_abs")),
        "exit_reason": trade.get("exit_reason") or trade.get("sell_reason"),
        "signals": [{"signal_id": position_id, "producer_id": producer, "direction": direction}],
    }
    if entry and entry > 0:
        adverse, favorable = (highest, lowest) if short else (lowest, highest)
        side = -1 if short else 1
        if adverse is not None:
            message["max_drawdown_pct"] = float(max(Decimal(0), side * (entry - adverse) / entry * 100))
        if favorable is not None:
            message["max_favorable_pct"] = float(max(Decimal(0), side * (favorable - entry) / entry * 100))
        # A stop on the wrong side of the entry says nothing about the money at risk.
        if size is not None and stop is not None and (risk := side * (entry - stop) * size) > 0:
            message["risk"] = _text(risk)
    context = {"timeframe": timeframe, "leverage": trade.get("leverage")}
    message["entry_context"] = {name: value for name, value in context.items() if value is not None} or None
    made = {name: value for name, value in message.items() if value is not None}
    try:
        json.dumps(made, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Unusable("a text of the trade is not UTF-8") from None
    return made


def _instant(trade: Mapping[str, Any], field: str) -> datetime:
    try:
        instant = datetime.fromisoformat(trade[field])
        # freqtrade works in UTC throughout; early versions left the offset out.
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _Unusable(f"{field}: must be a time such as 2018-01-10 07:15:00+00:00") from None


def _decimal(trade: Mapping[str, Any], field: str) -> Decimal | None:
    value = trade.get(field)
    if value is None:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("nan")
    if isinstance(value, bool) or not number.is_finite():
        raise _Unusable(f"{field}: must be a finite number")
    return number


def _text(number: Decimal | None) -> str | None:
    return None if number is None else str(number)
