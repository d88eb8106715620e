"""Money at risk at entry, from what a table says of stops (docs/algorithms.md, section 1)."""

from decimal import Decimal
from typing import Any

from closeloop.gateways.trade_tables.maps import Orders, TableMap
from closeloop.gateways.trade_tables.tables import value_at
from closeloop.gateways.trade_tables.values import Unreadable, absent, number, same

TOLERANCE = Decimal("0.02")  # by which amounts may differ that say the same


def of_stop_price(entry: Decimal, stop: Decimal, size: Decimal, side: int) -> Decimal | None:
    """|entry − stop| × size; None where there is no stop: unset (0), or not on the side where the trade loses."""
    risk = side * (entry - stop) * size
    return risk if stop and risk > 0 else None


def of_stop_ratio(entry: Decimal, ratio: Decimal, size: Decimal) -> Decimal | None:
    """The stop's distance as a ratio of the entry price (0.05 is 5 %), of either sign; None where it is 0."""
    if abs(ratio) > 1:
        raise Unreadable("must be a ratio between 0 and 1 (0.05 is 5 %)")
    return abs(ratio * entry) * size or None


def of_orders(row: Any, orders: Orders, table: TableMap, size: Decimal, side: int) -> Decimal | None:
    """Σ over entry fills of amount × (distance from the first stop); None where no stop was placed.

    Raises Unreadable where the list contradicts the position's size, or its first stop is of another size.
    """
    listed = value_at(row, orders.list)
    if absent(listed):
        return None
    if not isinstance(listed, list):
        raise Unreadable("must be a list of orders")
    entering, leaving = (orders.buy, orders.sell) if side > 0 else (orders.sell, orders.buy)
    fills: list[tuple[Decimal, Decimal]] = []
    stop: tuple[Decimal, Decimal] | None = None
    for order in listed:
        if not isinstance(order, dict):
            raise Unreadable("must be a list of orders")
        if same(order.get(orders.side), entering) and same(order.get(orders.status), orders.filled):
            fills.append((abs(_of(order, orders.quantity, table)), _of(order, orders.price, table)))
        elif stop is None and same(order.get(orders.side), leaving) and same(order.get(orders.type), orders.stop):
            stop = abs(_of(order, orders.quantity, table)), _of(order, orders.price, table)
    if stop is None:
        return None
    amount = sum((filled for filled, _ in fills), Decimal(0))
    if not fills or abs(amount - size) > TOLERANCE * size:
        raise Unreadable(f"its entry fills are of {amount}, the position is of {size}: the risk is not known")
    if stop[0] < (1 - TOLERANCE) * fills[0][0]:
        raise Unreadable(f"its first stop is of {stop[0]}, the first entry of {fills[0][0]}: the risk is not known")
    risk = sum((filled * max(Decimal(0), side * (price - stop[1])) for filled, price in fills), Decimal(0))
    return risk if stop[1] and risk > 0 else None


def _of(order: dict[str, Any], column: str, table: TableMap) -> Decimal:
    try:
        return number(order.get(column), table)
    except Unreadable as error:
        raise Unreadable(f"an order's {column} {error}") from None
