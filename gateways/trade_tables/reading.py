"""A file of trades by a map: the one that was named, or the ready one that fits its columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

from closeloop.gateways.trade_tables.mapper import MappedRow, Mapper
from closeloop.gateways.trade_tables.maps import TableMap, load_map, ready_maps, ready_names
from closeloop.gateways.trade_tables.tables import Record, Row, Rows, has, read_rows
from closeloop.gateways.trade_tables.values import Unreadable, identifier
from closeloop.gateways.trades import FileRun, NotTrades, TradeFile

COLUMNS_SHOWN = 40
HOW_TO_WRITE_ONE = "docs/trade-tables.md says how a map is written; --explain shows what it makes of the first rows"


@dataclass(frozen=True)
class ExplainedField:
    """A field of the message: the file's columns that it is from, and its value."""

    field: str
    column: str
    value: Any


@dataclass(frozen=True)
class ExplainedRow:
    """A row as it was understood. ``outcome``: trade, still open, skipped or refused."""

    index: int
    outcome: str
    reason: str | None = None
    rr: float | None = None
    fields: list[ExplainedField] = field(default_factory=list)
    noted: list[dict[str, str]] = field(default_factory=list)


class TradeTable:
    """A file and the map by which it is read. ``guessed``: the map was found by the file's columns."""

    def __init__(self, rows: Rows, table: TableMap, guessed: bool, book: str | None, symbol: str | None) -> None:
        self.map = table
        self.guessed = guessed
        self.columns = _names(rows, [table])
        self._rows = rows
        self._book = book
        self._mapper = Mapper(table, book, symbol)

    def trades(self) -> TradeFile:
        """The trades, which can be read once. A file for one book is one run's."""
        book = self._book or getattr(self.map.book, "value", None)
        run = FileRun(live=self.map.run == "live")
        return TradeFile(self._mapper.trades(self._read()), {book: run} if book else {})

    def explain(self, last: int) -> list[ExplainedRow]:
        """The first rows, as they were understood."""
        return [_explained(row, self._mapper.read(row)) for row in islice(self._read(), last)]

    def _read(self) -> Iterator[Row]:
        return self._rows.at(self.map.rows)


def open_table(file: BinaryIO, name: str | None, book: str | None, symbol: str | None) -> TradeTable:
    """A file of trades, read by the map of this name (or path), or by the ready one that fits. Raises NotTrades."""
    chosen = load_map(name) if name is not None else None
    rows = read_rows(file)
    table = chosen or _guess(rows)
    first = rows.looked_at(table.rows)
    for column, reason in table.refused_without.items():
        if first and not any(column in row for row in first):
            raise NotTrades(f"it has no column {column}: {reason}")
    if book is None and table.book is None:
        raise NotTrades(f"the map {table.name} names no book: say --book NAME, the book for its trades")
    if symbol is not None:
        try:
            symbol = identifier(symbol)
        except Unreadable as error:
            raise NotTrades(f"--symbol {error}") from None
    elif table.symbol is None:
        raise NotTrades(f"the table names no symbol (map {table.name}): say --symbol, such as --symbol BTC/USDT")
    return TradeTable(rows, table, chosen is None, book, symbol)


def _guess(rows: Rows) -> TableMap:
    known = ready_maps()
    found = [one for one in known if any(_known(row, one) for row in rows.looked_at(one.rows))]
    if len(found) == 1:
        return found[0]
    maps = ", ".join(ready_names())
    if found:
        raise NotTrades(
            f"more than one map fits its columns: choose with --map {' or --map '.join(one.name for one in found)}"
        )
    columns = _names(rows, known)
    if not columns:
        raise NotTrades(f"it has no rows by which a map could be chosen: name one with --map ({maps})")
    more = f" and {len(columns) - COLUMNS_SHOWN} more" if len(columns) > COLUMNS_SHOWN else ""
    named = ", ".join(columns[:COLUMNS_SHOWN])
    raise NotTrades(
        f"no ready map fits its columns, which are {named}{more}. The maps are {maps}: name one with --map NAME, or "
        f"write one of your own, --map MAP.yaml. {HOW_TO_WRITE_ONE}"
    )


def _known(row: Record, table: TableMap) -> bool:
    return all(has(row, column) for column in table.known_by)


def _names(rows: Rows, maps: list[TableMap]) -> list[str]:
    if rows.columns:
        return [_short(name) for name in rows.columns]
    for one in maps:
        if names := [_short(name) for row in rows.looked_at(one.rows) for name in row][:200]:
            return list(dict.fromkeys(names))
    return []


def _short(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:80])


def _explained(row: Row, mapped: MappedRow) -> ExplainedRow:
    trade = mapped.trade
    if trade is None:
        return ExplainedRow(row.index, "skipped", mapped.skipped)
    if trade.still_open:
        return ExplainedRow(row.index, "still open", mapped.skipped)
    if trade.message is None:
        return ExplainedRow(row.index, "refused", trade.reason)
    message = trade.message
    rr = float(message["realized_pnl"]) / float(message["risk"]) if "risk" in message else None
    fields = [
        ExplainedField(name, mapped.sources.get(name, "--book" if name == "book" else ""), _value(value))
        for name, value in message.items()
    ]
    notes = [{"field": note.field, "reason": note.reason} for note in trade.notes]
    return ExplainedRow(row.index, "trade", None, rr, fields, notes)


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(signal["producer_id"] for signal in value)
    return value
