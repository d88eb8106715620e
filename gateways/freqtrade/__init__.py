"""Trades as freqtrade has them, read as closed positions: results of backtests of every age, and a bot's own trades.

``files`` finds the trades in whatever file it is, ``database`` reads a bot's SQLite, ``fields`` a trade's fields,
``money`` what it risked and earned, ``trade`` makes the message. Which trade is which (its ``position_id``) is here.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from closeloop.gateways.freqtrade.fields import Fields, Unusable
from closeloop.gateways.freqtrade.files import BotTrades, Result, find_trades
from closeloop.gateways.freqtrade.trade import message, opened
from closeloop.gateways.trades import FileRun, FileTrade, NotTrades, TradeFile
from closeloop.models.exit_reasons import todays_name

__all__ = ["read_freqtrade"]

DRY_RUN = "-dry-run"  # ends the name of a book of trades that were only simulated, where no other name is given
_DRY_ORDER = "dry_run_"  # begins the id of every order that a dry run placed
_AT_THE_END = "force_exit"  # in a backtest, whose end closes what is open, and where nobody can force an exit


def read_freqtrade(file: Path | bytes, book: str | None = None, split_tags: bool = False) -> TradeFile:
    """Every trade of a file of freqtrade's, as a ``ClosedPosition`` message in ``book``.

    Without ``book`` it is in a book of its strategy's name, with ``-dry-run`` behind it where a bot only simulated it.
    ``split_tags``: an enter tag of several words is of several producers. Raises NotTrades.
    """
    found = find_trades(file)
    if isinstance(found, BotTrades):
        trades = list(_of_bot(found, book, split_tags))
        currencies: dict[str, set[Any]] = {}
        for each in trades:
            if each.book and each.message:
                currencies.setdefault(each.book, set()).add(each.message.get("currency"))
        runs = {
            name: FileRun(currency=next(iter(stated)) if len(stated) == 1 else None, live=True)
            for name, stated in currencies.items()
        }
        return TradeFile(trades, runs)
    by_book: dict[str, list[Result]] = {}
    for result in found:
        by_book.setdefault(book or result.strategy, []).append(result)
    return TradeFile(
        (trade for result in found for trade in _of_backtest(result, book or result.strategy, split_tags)),
        {name: _run(name, results) for name, results in by_book.items()},
    )


def _of_backtest(result: Result, book: str, split_tags: bool) -> Iterator[FileTrade]:
    times_seen: Counter[str] = Counter()
    timeframe, currency = _text(result.section.get("timeframe")), _text(result.section.get("stake_currency"))
    for index, each in enumerate(result.trades):
        if not isinstance(each, dict):
            yield FileTrade(book, index, reason="the trade is not an object")
            continue
        fields = Fields(each, {})
        try:
            reason = fields.get("exit_reason")
            ended = isinstance(reason, str) and todays_name(reason.strip()) == _AT_THE_END
            still_open = fields.flag("is_open") or fields.flag("open_at_end") or ended
            if still_open:
                yield FileTrade(book, index, still_open=True)
                continue
            of = opened(fields, to_the_second=False)
            # The strategy is in the id because one book may take in several, which trade the same pair at the same
            # instant. Position stacking can open a pair twice at one instant: the second and further ones are counted.
            # freqtrade lists trades as they close, those that the end closed last: a longer range counts alike.
            base = f"{result.strategy} {of.pair} {of.opened_at:%Y-%m-%dT%H:%M:%SZ} {of.direction}"
            times_seen[base] += 1
            position_id = base if times_seen[base] == 1 else f"{base} {times_seen[base]}"
            made, corrected = message(fields, of, book, position_id, result.strategy, timeframe, currency, split_tags)
        except Unusable as error:
            yield FileTrade(book, index, reason=str(error))
        except ArithmeticError:
            yield FileTrade(book, index, reason="its numbers are too large or too small")
        else:
            yield FileTrade(book, index, made, corrected=corrected, notes=fields.notes)


def _of_bot(found: BotTrades, book: str | None, split_tags: bool) -> Iterator[FileTrade]:
    """Their ids are the exchange, the bot's own number, which begins anew with a new database, and the opening."""
    indices: Counter[str] = Counter()
    for each in found.trades:
        trade = each if isinstance(each, dict) else {}
        strategy = _text(trade.get("strategy"))
        name = book or (f"{strategy}{DRY_RUN if _simulated(trade, found) else ''}" if strategy else "")
        index = indices[name]
        indices[name] += 1
        fields = Fields(trade, found.own_names)
        try:
            if not isinstance(each, dict):
                raise Unusable("the trade is not an object")
            if not name:
                raise Unusable("strategy: is missing; name a book with --book")
            if fields.flag("is_open"):
                yield FileTrade(name, index, still_open=True)
                continue
            of = opened(fields, to_the_second=True)
            number = fields.get("trade_id")
            if not isinstance(number, int) or isinstance(number, bool):
                raise Unusable(f"{fields.own_name('trade_id')}: must be a whole number")
            position_id = f"{fields.identifier('exchange')} {number} {of.opened_at:%Y-%m-%dT%H:%M:%SZ}"
            made, corrected = message(
                fields,
                of,
                name,
                position_id,
                strategy or name,
                _timeframe(trade.get("timeframe")),
                _text(trade.get("quote_currency")),
                split_tags,
            )
        except Unusable as error:
            yield FileTrade(name, index, reason=str(error))
        except ArithmeticError:
            yield FileTrade(name, index, reason="its numbers are too large or too small")
        else:
            yield FileTrade(name, index, made, corrected=corrected, notes=fields.notes)


def _simulated(trade: dict[str, Any], found: BotTrades) -> bool:
    orders = trade.get("orders")
    ids = [order.get("order_id") for order in orders if isinstance(order, dict)] if isinstance(orders, list) else []
    return found.dry_run or any(isinstance(each, str) and each.startswith(_DRY_ORDER) for each in ids)


def _run(book: str, results: list[Result]) -> FileRun:
    currencies = {currency for each in results if (currency := _text(each.section.get("stake_currency")))}
    if len(currencies) > 1:
        raise NotTrades(
            f"its strategies earn in different currencies ({', '.join(sorted(currencies))}), and book {book} has one: "
            "import them without --book, into books of their own"
        )
    ids = [_text(each.metadata.get("run_id")) for each in results]
    begins = [_instant(each.section, "backtest_start") for each in results]
    ends = [_instant(each.section, "backtest_end") for each in results]
    return FileRun(
        run_id="+".join(sorted(each for each in ids if each)) if all(ids) else None,
        begins=min((each for each in begins if each), default=None),
        ends=max((each for each in ends if each), default=None),
        currency=next(iter(currencies), None),
    )


def _instant(section: dict[str, Any], field: str) -> datetime | None:
    value, milliseconds = section.get(field), section.get(f"{field}_ts")
    try:
        if isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool):
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
        instant = datetime.fromisoformat(value)  # type: ignore[arg-type]  # anything else is a TypeError, caught below
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _timeframe(minutes: Any) -> str | None:
    """A bot says minutes; a backtest, and closeloop, says 5m, 1h or 1d."""
    if isinstance(minutes, str):
        return _text(minutes)
    if not isinstance(minutes, int) or isinstance(minutes, bool) or minutes <= 0:
        return None
    for unit, length in (("d", 1440), ("h", 60)):
        if minutes % length == 0:
            return f"{minutes // length}{unit}"
    return f"{minutes}m"


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    return text if text.isprintable() and len(text) <= 64 else None
