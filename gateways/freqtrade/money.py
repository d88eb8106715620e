"""What a trade put at risk and what it earned, from its fills, rates and fees."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from closeloop.gateways.freqtrade.fields import Fields, Unusable, decimal

AMOUNTS_AGREE = Decimal("0.02")  # of the stake: fees, and rounding to an exchange's steps, stay below it
RATIO_ROUNDING = Decimal("6e-9")  # freqtrade rounds ratios to 8 digits
_NOISE = Decimal("1e-12")  # a ratio of floating point, where newer versions do not round it
_ALL = Decimal("0.99")  # the widest stop that is usual: of a small price it is rounded to 0
RATIO_SHOWN = Decimal("5e-5")  # the coarsest rounding of a ratio that is seen, 4 digits


@dataclass(frozen=True)
class Fill:
    """An amount in the base currency, and its price."""

    amount: Decimal
    price: Decimal

    @property
    def value(self) -> Decimal:
        """In the quote currency."""
        return self.amount * self.price


@dataclass(frozen=True)
class Earned:
    """The net PnL, and whether the file stated another figure."""

    pnl: Decimal
    corrected: bool


@dataclass(frozen=True)
class Traded:
    """The fills of a trade as far as they are known, and what its rates say where they are not.

    ``entries``: of the orders; else one fill of ``amount`` at ``open_rate``, with ``known`` false. ``leverage``: 1
    where nothing is said.
    """

    side: int
    entries: tuple[Fill, ...]
    exits: tuple[Fill, ...]
    known: bool
    leverage: Decimal

    @property
    def size(self) -> Decimal:
        """Σ of the entry fills."""
        return sum((fill.amount for fill in self.entries), Decimal(0))

    def cost(self, fee_open: Decimal) -> Decimal:
        """What profit_ratio x leverage is relative to: the entries with their fee (a short sells, and gets less)."""
        return _value(self.entries) * (1 + self.side * fee_open)


def traded(fields: Fields, short: bool, leverage: Decimal | None) -> Traded:
    """The fills of a trade. Raises Unusable where not even ``amount`` and the rates are there."""
    side = -1 if short else 1
    entries, exits = _fills(fields, "sell" if short else "buy")
    if entries:
        return Traded(side, entries, exits, True, leverage or Decimal(1))
    amount = fields.number("amount")
    if amount <= 0:
        raise Unusable(f"{fields.own_name('amount')}: must be positive")
    return Traded(
        side,
        (Fill(amount, fields.number("open_rate")),),
        (Fill(amount, fields.number("close_rate")),),
        False,
        leverage or Decimal(1),
    )


def _fills(fields: Fields, entry_side: str) -> tuple[tuple[Fill, ...], tuple[Fill, ...]]:
    orders = fields.get("orders")
    if orders is None or orders == []:
        return (), ()
    entries: list[Fill] = []
    exits: list[Fill] = []
    try:
        if not isinstance(orders, list):
            raise ValueError("must be a list")
        for order in orders:
            is_entry = _is_entry(order, entry_side)
            if (fill := _fill(order)) is not None:
                (entries if is_entry else exits).append(fill)
    except ValueError as error:
        fields.note("orders", f"{error}; they are left out")
        return (), ()
    return tuple(entries), tuple(exits)


def _is_entry(order: Any, entry_side: str) -> bool:
    if isinstance(order, dict):
        said = order.get("ft_is_entry")
        if isinstance(said, bool):
            return said
        if said is None and isinstance(order.get("ft_order_side"), str):
            return bool(order["ft_order_side"] == entry_side)
    raise ValueError("each must say ft_is_entry")


def _fill(order: dict[str, Any]) -> Fill | None:
    filled = decimal(order.get("filled"))
    if filled is None:
        # Without it the whole amount was filled, if anything was: an order that was not has no time of it.
        times = [order[name] for name in ("order_filled_timestamp", "order_filled_date") if name in order]
        if order.get("status") not in (None, "closed") or (times and not any(times)):
            return None
        filled = _first(order, "amount", "ft_amount")
    if not filled:
        return None
    price = _first(order, "safe_price", "average", "price", "ft_price")
    if price is None or filled < 0:
        raise ValueError("each that was filled must have an amount and a price")
    return Fill(filled, price)


def _first(order: dict[str, Any], *names: str) -> Decimal | None:
    """The first of these numbers that is there and not 0."""
    return next((number for name in names if (number := decimal(order.get(name)))), None)


def earned(fields: Fields, trade: Traded) -> Earned:
    """The net PnL: ``profit_abs``, unless it contradicts ``profit_ratio``, or the rates and fees. Raises Unusable.

    ``profit_ratio`` is net, and 8 digits of it say which figure is right; a ratio of 0 is a break-even to the last
    digit, whatever sign floating point gave it.
    """
    stated = fields.number("profit_abs")
    ratio = fields.optional_number("profit_ratio")
    if ratio is not None and abs(ratio) <= _NOISE:
        ratio = Decimal(0)
    fee_open, fee_close = fields.optional_number("fee_open"), fields.optional_number("fee_close")
    cost = trade.cost(fee_open or Decimal(0))
    rounding = abs(cost) * RATIO_ROUNDING
    gross = trade.side * (_value(trade.exits) - _value(trade.entries))
    if fee_open is not None and fee_close is not None and _complete(trade):
        funding = fields.optional_number("funding_fees") or Decimal(0)
        net = gross - fee_open * _value(trade.entries) - fee_close * _value(trade.exits) + funding
        if abs(stated - net) <= rounding:
            return Earned(Decimal(0), stated != 0) if ratio == 0 else Earned(stated, False)
        # Without orders the amount may be of the last exit only, while the profit is of the whole: another gross.
        of_it = trade.known or abs(stated - gross) <= 2 * abs(gross - net) + rounding
        if ratio is not None and of_it and _is_ratio(ratio, net, trade, cost):
            return Earned(Decimal(0) if ratio == 0 else net, True)
        if abs(stated - gross) <= rounding and not (ratio is not None and _sign(ratio) == _sign(net) == 0):
            return Earned(net, True)
    if ratio is None or _sign(ratio) == _sign(stated):
        return Earned(stated, False)
    too_much = not trade.known and abs(stated) > abs(gross) + abs(cost) * AMOUNTS_AGREE
    if too_much or not amounts_agree(fields, trade):
        raise Unusable(
            f"{fields.own_name('profit_abs')}: its sign is not that of {fields.own_name('profit_ratio')}, and the "
            "amounts contradict each other, so that the net figure is not known"
        )
    return Earned(cost * ratio / trade.leverage, True)


def _is_ratio(ratio: Decimal, net: Decimal, trade: Traded, cost: Decimal) -> bool:
    expected = ratio * cost / trade.leverage
    return abs(expected - net) <= abs(cost) * RATIO_ROUNDING


def _complete(trade: Traded) -> bool:
    """All that was bought was sold again, so that entries, exits and fees give the whole PnL."""
    left = trade.size - sum((fill.amount for fill in trade.exits), Decimal(0))
    return abs(left) <= trade.size * RATIO_ROUNDING


def _value(fills: Sequence[Fill]) -> Decimal:
    return sum((fill.value for fill in fills), Decimal(0))


def _sign(number: Decimal) -> int:
    return (number > 0) - (number < 0)


def amounts_agree(fields: Fields, trade: Traded) -> bool:
    """Whether size x entry price / leverage is the stake, within 2 %, where a stake is stated."""
    stake = fields.optional_number("stake_amount")
    if stake is None:
        return True
    return abs(_value(trade.entries) / trade.leverage - stake) <= AMOUNTS_AGREE * abs(stake)


def risk(fields: Fields, trade: Traded, pnl: Decimal) -> Decimal | None:
    """Σ over entry fills of amount x |price - initial stop|, a fill beyond the stop counting 0.

    None without a stop, with one on the wrong side of every fill, and where the fills are not known and the amounts
    contradict each other: ``amount`` is then what the last exit sold.
    """
    stop = fields.optional_number("initial_stop_loss_abs")
    if stop is None or (stop == 0 and not _at_nothing(fields)):
        return None
    if not trade.known and (why := _contradiction(fields, trade, pnl)):
        fields.note("amount", f"{why}: what was bought is not known, and so neither is the risk")
        return None
    at_risk = sum(
        (fill.amount * max(Decimal(0), trade.side * (fill.price - stop)) for fill in trade.entries), Decimal(0)
    )
    return at_risk if at_risk > 0 else None


def _at_nothing(fields: Fields) -> bool:
    """Whether a stop of 0 is one, where all is at risk: its ratio says so. Else it was never set."""
    ratio = fields.optional_number("initial_stop_loss_ratio")
    return ratio is not None and abs(ratio) >= _ALL


def _contradiction(fields: Fields, trade: Traded, pnl: Decimal) -> str | None:
    if not amounts_agree(fields, trade):
        return "amount x open_rate / leverage is not stake_amount"
    ratio = fields.optional_number("profit_ratio")
    fee = fields.optional_number("fee_open") or Decimal(0)
    stake = trade.cost(fee) / trade.leverage
    if not ratio or not stake:
        return None
    # Of a trade that was sold in parts, both are of the last part; only the profit is of the whole.
    whole = pnl / ratio
    if abs(whole - stake) > abs(stake) * (AMOUNTS_AGREE + RATIO_SHOWN / abs(ratio)):
        return "profit_abs / profit_ratio is not the stake (it was sold in parts)"
    return None
