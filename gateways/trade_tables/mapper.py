"""A row of a table and its map give a close, the reason why there is none, and what was left out of it."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from closeloop.gateways.trade_tables import risk as at_risk
from closeloop.gateways.trade_tables.maps import (
    Condition,
    Constant,
    DirectionSign,
    DirectionWords,
    Excursion,
    Identity,
    Size,
    TableMap,
    Text,
    TextColumn,
)  # fmt: skip
from closeloop.gateways.trade_tables.tables import Row, has, value_at
from closeloop.gateways.trade_tables.values import (
    Unreadable,
    absent,
    identifier,
    instant,
    money,
    number,
    same,
    word,
)  # fmt: skip
from closeloop.gateways.trades import FileTrade, Noted

_UUID = re.compile(r"[-/_]?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", re.IGNORECASE)
_CENT = Decimal("0.01")
_MOST_DISTINCT_IDS = 2_000_000
T = TypeVar("T")


class Refused(Exception):
    """A required column of the row cannot be used; the message names it."""


@dataclass
class MappedRow:
    """What was made of a row. ``sources``: the column, or columns, from which each field of the message is."""

    trade: FileTrade | None
    skipped: str | None = None
    sources: dict[str, str] = field(default_factory=dict)


class Mapper:
    """Reads rows by a map. ``book`` and ``symbol``, where they are given, are what the command line said."""

    def __init__(self, table: TableMap, book: str | None, symbol: str | None) -> None:
        self._map = table
        self._book = book
        self._symbol = symbol
        self._column_symbol: str | None = None  # the one for which the command line's symbol stands
        self._seen: Counter[int] = Counter()

    def trades(self, rows: Iterable[Row]) -> Iterator[FileTrade]:
        """Each row that is a trade, in its order."""
        for row in rows:
            if (found := self.read(row).trade) is not None:
                yield found

    def read(self, row: Row) -> MappedRow:
        """What a row is."""
        if row.reason is not None:
            return MappedRow(FileTrade(self._book or "", row.index, reason=row.reason))
        for condition in self._map.skip:
            if _holds(condition, row.values):
                return MappedRow(None, skipped=_said(condition, row.values))
        reading = _Reading(self._map, row.values)
        book = self._book or ""
        try:
            book = self._book or reading.text("book", self._map.book)
            for condition in self._map.open:
                if _holds(condition, row.values):
                    return MappedRow(FileTrade(book, row.index, still_open=True), _said(condition, row.values))
            message, corrected = self._message(reading, book)
        except Refused as error:
            return MappedRow(FileTrade(book, row.index, reason=str(error)), sources=reading.sources)
        except (ArithmeticError, ValueError, RecursionError):
            reason = "its numbers are too large or too small"
            return MappedRow(FileTrade(book, row.index, reason=reason), sources=reading.sources)
        notes = tuple(reading.notes)
        trade = FileTrade(book, row.index, message=message, corrected=corrected, notes=notes)
        return MappedRow(trade, sources=reading.sources)

    def _message(self, row: "_Reading", book: str) -> tuple[dict[str, Any], bool]:
        table = self._map
        symbol = self._symbol_of(row)
        direction, size = _direction_and_size(row)
        side = 1 if direction == "long" else -1
        opened_at = row.required("opened_at", table.opened_at, lambda value: instant(value, table))
        closed_at = row.required("closed_at", table.closed_at, lambda value: instant(value, table))
        if closed_at < opened_at:
            raise Refused(f"{row.sources['closed_at']}: must not be before {row.sources['opened_at']}")
        entry = row.required("entry_price", table.entry_price, lambda value: number(value, table))
        pnl = _Pnl(row, side, entry, size)
        exit_ = pnl.exit_price
        if isinstance(table.size, Size) and table.size.filled:
            _check_filled(row, table.size.filled, size, entry, exit_)
        message: dict[str, Any] = {
            "book": book,
            "position_id": self._identity(row, symbol, opened_at, direction),
            "symbol": symbol,
            "direction": direction,
            "opened_at": opened_at.isoformat(),
            "closed_at": closed_at.isoformat(),
            "entry_price": str(entry),
            "exit_price": str(exit_),
            "size": str(size),
            "realized_pnl": str(pnl.net),
        }
        optional = {
            "currency": pnl.currency or row.optional_text("currency", table.currency),
            "risk": _text(_risk(row, entry, size, side)),
            "max_drawdown_pct": _excursion(row, "max_drawdown_pct", table.adverse, entry, size, -side, pnl),
            "max_favorable_pct": _excursion(row, "max_favorable_pct", table.favorable, entry, size, side, pnl),
            "exit_reason": row.optional_text("exit_reason", table.exit_reason),
            "regime_at_entry": row.optional_text("regime_at_entry", table.regime),
        }
        message |= {name: value for name, value in optional.items() if value is not None}
        producers = dict.fromkeys(
            name for one in table.producers if (name := row.optional_text("signals", one)) is not None
        )
        if producers:
            message["signals"] = [
                {"signal_id": message["position_id"], "producer_id": name, "direction": direction} for name in producers
            ]
        return message, pnl.corrected

    def _symbol_of(self, row: "_Reading") -> str:
        if self._symbol is None:
            if self._map.symbol is None:
                raise Refused("symbol: the table names none; say --symbol")
            return row.text("symbol", self._map.symbol, missing="names no symbol; say --symbol")
        found = _first(row.values, _columns(self._map.symbol))
        if found is not None and not isinstance(found[1], dict | list):
            name = word(found[1])[:200]
            if self._column_symbol is None:
                self._column_symbol = name
            elif name != self._column_symbol:
                raise Refused(
                    f"{found[0]}: is {name[:40]}, and --symbol stands for the rows of {self._column_symbol[:40]}: "
                    "import each from a file of its own"
                )
        row.sources["symbol"] = "--symbol"
        return self._symbol

    def _identity(self, row: "_Reading", symbol: str, opened_at: datetime, direction: str) -> str:
        if (ids := self._map.id) is not None:
            identity = ids if isinstance(ids, Identity) else Identity(columns=ids)
            parts = [row.required("position_id", (column,), word) for column in identity.columns]
            row.sources["position_id"] = ", ".join(identity.columns)
            made = "/".join(_UUID.sub("", part) or part if identity.without_uuid else part for part in parts)
        else:
            # One table may open a symbol twice at one instant, or close a position in parts: those are counted.
            base = f"{symbol} {opened_at.isoformat().replace('+00:00', 'Z')} {direction}"
            self._seen[hash(base)] += 1
            if len(self._seen) > _MOST_DISTINCT_IDS:
                raise Refused(f"the file has more than {_MOST_DISTINCT_IDS:,} trades: split it")
            count = self._seen[hash(base)]
            made = base if count == 1 else f"{base} {count}"
            row.sources["position_id"] = f"{row.sources['symbol']}, {row.sources['opened_at']}, {row.direction_column}"
        try:
            return identifier(made)
        except Unreadable as error:
            raise Refused(f"{row.sources['position_id']}: as an id {error}") from None


class _Reading:
    """The columns of one row, read by name; what could not be used is noted."""

    def __init__(self, table: TableMap, values: Mapping[str, Any]) -> None:
        self.table = table
        self.values = values
        self.notes: list[Noted] = []
        self.sources: dict[str, str] = {}
        self.direction_column = "direction"

    def required(self, name: str, columns: tuple[str, ...], read: Callable[[Any], T]) -> T:
        """The first of the columns that is there. Raises Refused, which names it."""
        found = _first(self.values, columns)
        if found is None:
            raise Refused(f"{' or '.join(columns)}: is absent, and a close needs it ({name})")
        self.sources[name] = found[0]
        try:
            return read(found[1])
        except Unreadable as error:
            raise Refused(f"{found[0]}: {error}") from None

    def optional(self, name: str, columns: tuple[str, ...], read: Callable[[Any], T | None]) -> T | None:
        """The same, or None: noted where it is there and cannot be used."""
        found = _first(self.values, columns)
        if found is None:
            if column := _not_a_number(self.values, columns):
                self.notes.append(Noted(column, "is no number: left out"))
            return None
        try:
            value = read(found[1])
        except Unreadable as error:
            self.notes.append(Noted(found[0], str(error)))
            return None
        if value is not None:
            self.sources[name] = found[0]
        return value

    def text(self, name: str, source: Text | None, missing: str = "") -> str:
        """A required text."""
        if isinstance(source, Constant):
            self.sources[name] = "the map"
            return source.value
        columns = _columns(source)
        if not columns:
            raise Refused(f"{name}: the table names none; say --{name}")

        def read(value: Any) -> str:
            if isinstance(source, TextColumn) and same(value, source.none):
                raise Unreadable(missing or "says nothing")
            return _worded(source, value)

        return self.required(name, columns, read)

    def optional_text(self, name: str, source: Text | None) -> str | None:
        """An optional text."""
        if source is None or isinstance(source, Constant):
            if source is not None:
                self.sources[name] = "the map"
            return source.value if source is not None else None

        def read(value: Any) -> str | None:
            return None if isinstance(source, TextColumn) and same(value, source.none) else _worded(source, value)

        return self.optional(name, _columns(source), read)


class _Pnl:
    """The net PnL of a row, its currency, and the price at which it was closed."""

    def __init__(self, row: _Reading, side: int, entry: Decimal, size: Decimal) -> None:
        table, pnl = row.table, row.table.pnl
        columns = pnl.net or pnl.gross or pnl.either or ()
        stated, self.currency = row.required("realized_pnl", columns, lambda value: money(value, table))
        if self.currency:
            self.currency = identifier(self.currency)
            row.sources["currency"] = row.sources["realized_pnl"]
        fees = sum((self._also(row, column) for column in pnl.fees), Decimal(0))
        if pnl.gross is not None and fees < 0:
            raise Refused(
                f"{' + '.join(pnl.fees)}: is negative, and fees are costs that are taken off; where costs are "
                "negative, the map names the column under added"
            )
        added = sum((self._also(row, column) for column in pnl.added), Decimal(0))
        exit_ = None
        if table.exit_price and (not table.exit_from_pnl or _first(row.values, table.exit_price) is not None):
            exit_ = row.required("exit_price", table.exit_price, lambda value: number(value, table))
        is_gross = pnl.gross is not None
        if pnl.either is not None:
            if exit_ is None:
                raise Refused(f"{row.sources['realized_pnl']}: without an exit price nothing tells whether it is net")
            is_gross = self._is_gross(row, stated, side * (exit_ - entry) * size, fees)
        self.net = stated - fees + added if is_gross else stated
        self.corrected = is_gross and bool(fees or added)
        if self.corrected:
            row.sources["realized_pnl"] = " ".join(
                [row.sources["realized_pnl"], *(f"− {one}" for one in pnl.fees), *(f"+ {one}" for one in pnl.added)]
            )
        if exit_ is None:
            paid = sum((self._also(row, column) for column in table.exit_from_pnl or ()), Decimal(0))
            exit_ = entry + side * (self.net + paid) / size
            row.sources["exit_price"] = " + ".join([row.sources["realized_pnl"], *(table.exit_from_pnl or ())])
        self.exit_price = exit_
        self.gross = self.net + fees - added if is_gross or pnl.either is not None else self.net
        self.prices_gross = side * (exit_ - entry) * size

    def _also(self, row: _Reading, column: str) -> Decimal:
        """A fee, or what is added. Raises Refused where it is absent, for without it the PnL is not net."""
        found = _first(row.values, (column,))
        if found is None:
            raise Refused(f"{column}: is absent, and without it {row.sources['realized_pnl']} may not be net of fees")
        try:
            amount, currency = money(found[1], row.table)
        except Unreadable as error:
            raise Refused(f"{column}: {error}") from None
        if currency and self.currency and currency != self.currency and amount:
            raise Refused(f"{column}: is in {currency[:20]}, and {row.sources['realized_pnl']} in {self.currency}")
        return amount

    def _is_gross(self, row: _Reading, stated: Decimal, gross: Decimal, fees: Decimal) -> bool:
        if not fees:
            return False
        slack = max(abs(gross), abs(fees)) * Decimal("1e-6") + Decimal("1e-9")
        if abs(stated - (gross - fees)) <= slack:
            return False
        if abs(stated - gross) <= slack:
            return True
        raise Refused(
            f"{row.sources['realized_pnl']}: is neither what the prices give ({gross}) nor that without "
            f"{' and '.join(row.table.pnl.fees)} ({gross - fees}): whether it is net cannot be told"
        )


def _direction_and_size(row: _Reading) -> tuple[str, Decimal]:
    table = row.table
    columns = table.size.column if isinstance(table.size, Size) else table.size
    signed = row.required("size", columns, lambda value: number(value, table))
    if not signed:
        raise Refused(f"{row.sources['size']}: must not be 0")
    rule = table.direction
    if isinstance(rule, DirectionSign):
        sign = row.required("direction", rule.sign_of, lambda value: number(value, table))
        if not sign:
            raise Refused(f"{row.sources['direction']}: must not be 0")
        direction = "long" if sign > 0 else "short"
    elif isinstance(rule, DirectionWords):
        direction = row.required("direction", rule.column, lambda value: _direction(value, rule))
        if signed < 0 and direction == "long":
            raise Refused(f"{row.sources['size']}: is negative, and {row.sources['direction']} says long")
    else:
        direction = rule.value
        row.sources["direction"] = "the map"
    row.direction_column = row.sources["direction"]
    return direction, abs(signed)


def _direction(value: Any, rule: DirectionWords) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    if same(value, rule.long):
        return "long"
    if same(value, rule.short):
        return "short"
    raise Unreadable(f"must be one of {', '.join((*rule.long, *rule.short))}")


def _check_filled(row: _Reading, column: str, size: Decimal, entry: Decimal, exit_: Decimal) -> None:
    filled = row.required("size", (column,), lambda value: number(value, row.table))
    row.sources["size"] = f"{', '.join(_size_columns(row.table))} ({column})"
    one, both = abs(size * entry), abs(size * entry) + abs(size * exit_)
    if not any(abs(filled - whole) <= Decimal("0.05") * whole for whole in (one, both)):
        raise Refused(
            f"{column}: is {filled}, and {_size_columns(row.table)[0]} × the entry price is {one}: it was filled in "
            "part, and its size is not known"
        )


def _size_columns(table: TableMap) -> tuple[str, ...]:
    return table.size.column if isinstance(table.size, Size) else table.size


def _risk(row: _Reading, entry: Decimal, size: Decimal, side: int) -> Decimal | None:
    table, rule = row.table, row.table.risk
    if rule is None:
        return None
    if rule.money:
        return row.optional("risk", rule.money, lambda value: _positive(money(value, table)[0]))
    if rule.stop_price:
        return row.optional(
            "risk", rule.stop_price, lambda value: at_risk.of_stop_price(entry, number(value, table), size, side)
        )
    if rule.stop_ratio:
        return row.optional("risk", rule.stop_ratio, lambda v: at_risk.of_stop_ratio(entry, number(v, table), size))
    assert rule.orders is not None
    orders = rule.orders
    return row.optional("risk", (orders.list,), lambda _: at_risk.of_orders(row.values, orders, table, size, side))


def _positive(amount: Decimal) -> Decimal | None:
    if amount < 0:
        raise Unreadable("must not be negative")
    return amount or None  # 0 is "no stop"


def _excursion(
    row: _Reading, name: str, rule: Excursion | None, entry: Decimal, size: Decimal, way: int, pnl: _Pnl
) -> float | None:
    """In percent of the entry notional; ``way`` is +1 where it is a rise of the price."""
    if rule is None or entry <= 0:
        return None

    def read(value: Any) -> float:
        amount = money(value, row.table)[0]
        if rule.unit == "price":
            if not amount:
                raise Unreadable("is 0: unknown")
            return float(max(Decimal(0), way * (amount - entry) / entry * 100))
        if name == "max_favorable_pct" and amount < 0:
            raise Unreadable("must not be negative")
        amount = abs(amount)
        if rule.unit == "money":
            _in_the_prices_money(pnl)
            amount = amount / (entry * size) * 100
        elif rule.unit == "ratio":
            amount *= 100
        return float(amount)

    return row.optional(name, rule.column, read)


def _in_the_prices_money(pnl: _Pnl) -> None:
    """Raises Unreadable where price × size is not in the account's money: a multiplier, another currency."""
    slack = abs(pnl.prices_gross) * at_risk.TOLERANCE + _CENT
    if abs(pnl.gross - pnl.prices_gross) > slack:
        raise Unreadable(
            "is in account money, and the PnL shows that prices are not (a contract's multiplier, or another "
            "currency): its percentage is not known"
        )


def _holds(condition: Condition, values: Mapping[str, Any]) -> bool:
    found = value_at(values, condition.column)
    if condition.empty:
        return has(values, condition.column) and absent(found)
    if condition.is_ is not None:
        return same(found, condition.is_)
    return not same(found, condition.is_not or ())


def _said(condition: Condition, values: Mapping[str, Any]) -> str:
    found = value_at(values, condition.column)
    return f"{condition.column}: {'is empty' if absent(found) else f'is {str(found)[:40]}'}"


def _columns(source: Text | None) -> tuple[str, ...]:
    if source is None or isinstance(source, Constant):
        return ()
    return source.column if isinstance(source, TextColumn) else source


def _worded(source: Text | None, value: Any) -> str:
    said = word(value)
    if isinstance(source, TextColumn):
        for one, meant in source.words.items():
            if same(value, (one,)):
                return meant
    return identifier(said)


def _first(values: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[str, Any] | None:
    for column in columns:
        if not absent(found := value_at(values, column)):
            return column, found
    return None


def _not_a_number(values: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """The column that holds JSON's NaN, which is a value that was computed wrongly, and not an empty cell."""
    return next((column for column in columns if isinstance(value_at(values, column), float)), None)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def shown(value: Any) -> str:
    """A value of the file for a person, short."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(c if c.isprintable() else " " for c in text[:60])
