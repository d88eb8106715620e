"""One of freqtrade's trades as a ``ClosedPosition`` message."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from closeloop.gateways.freqtrade.fields import Fields, Unusable
from closeloop.gateways.freqtrade.money import Traded, earned, risk, traded
from closeloop.models.exit_reasons import todays_name


@dataclass(frozen=True)
class Opened:
    """What tells a trade from others."""

    pair: str
    opened_at: datetime
    closed_at: datetime
    short: bool

    @property
    def direction(self) -> str:
        """As a message has it."""
        return "short" if self.short else "long"


def opened(fields: Fields, to_the_second: bool) -> Opened:
    """A trade's pair, times and side. Raises Unusable.

    ``to_the_second``: a bot's database knows more of an instant than its REST answer says; both are one trade.
    """
    pair = fields.identifier("pair")
    times = (fields.instant("open_date", "open_timestamp"), fields.instant("close_date", "close_timestamp"))
    if to_the_second:
        times = (times[0].replace(microsecond=0), times[1].replace(microsecond=0))
    if times[1] < times[0]:
        raise Unusable(f"{fields.own_name('close_date')}: must not be before {fields.own_name('open_date')}")
    return Opened(pair, *times, fields.flag("is_short"))


def message(
    fields: Fields,
    of: Opened,
    book: str,
    position_id: str,
    producer: str,
    timeframe: str | None,
    currency: str | None,
    split_tags: bool,
) -> tuple[dict[str, Any], bool]:
    """The message, and whether its PnL was corrected. ``producer`` stands in for a tag. Raises Unusable."""
    leverage = fields.optional_number("leverage")
    if leverage is not None and leverage <= 0:
        fields.note("leverage", "must be positive")
        leverage = None
    trade = traded(fields, of.short, leverage)
    close_rate = fields.number("close_rate")
    result = earned(fields, trade)
    tags = fields.tags("enter_tag", split_tags, f"; the strategy stands in for it, {producer}") or [producer]
    exit_reason = fields.optional_identifier("exit_reason")
    if exit_reason is None and fields.get("exit_reason") is not None:
        fields.note("exit_reason", "is empty")
    at_risk = risk(fields, trade, result.pnl)
    adverse, favorable = _excursions(fields, trade, close_rate)
    context = {"timeframe": timeframe, "leverage": None if leverage is None else float(leverage)}
    made: dict[str, Any] = {
        "book": book,
        "position_id": position_id,
        "symbol": of.pair,
        "direction": of.direction,
        "opened_at": of.opened_at.isoformat(),
        "closed_at": of.closed_at.isoformat(),
        "entry_price": str(fields.number("open_rate")),
        "exit_price": str(close_rate),
        "size": str(trade.size),
        "realized_pnl": str(result.pnl),
        "currency": currency,
        "exit_reason": None if exit_reason is None else todays_name(exit_reason),
        "signals": [
            {"signal_id": position_id, "producer_id": each, "direction": of.direction} for each in dict.fromkeys(tags)
        ],
        "max_drawdown_pct": adverse,
        "max_favorable_pct": favorable,
        "risk": None if at_risk is None else str(at_risk),
        "entry_context": {name: value for name, value in context.items() if value is not None} or None,
    }
    return {name: value for name, value in made.items() if value is not None}, result.corrected


def _excursions(fields: Fields, trade: Traded, close_rate: Decimal) -> tuple[float | None, float | None]:
    """How far the price went against the trade and for it, in percent of the entry price (0.4 = 0.4 %).

    Unknown with several entries: freqtrade measures from an average that moved. The price was at ``close_rate``, too,
    which freqtrade's extremes may leave out. A rate of 0 is one that was never set.
    """
    low, high = fields.optional_number("min_rate"), fields.optional_number("max_rate")
    entry = trade.entries[0].price
    if len(trade.entries) > 1 or entry <= 0:
        return None, None
    lowest = min(low, close_rate) if low else None
    highest = max(high, close_rate) if high else None
    adverse, favorable = (highest, lowest) if trade.side < 0 else (lowest, highest)
    return _percent(adverse, entry, -trade.side), _percent(favorable, entry, trade.side)


def _percent(rate: Decimal | None, entry: Decimal, way: int) -> float | None:
    return None if rate is None else float(max(Decimal(0), way * (rate - entry) / entry * 100))
