"""Trades of any engine's table: what is imported of them, and how their first rows are understood."""

from dataclasses import dataclass
from typing import BinaryIO

from closeloop.gateways.trade_tables.reading import ExplainedRow, TradeTable, open_table
from closeloop.gateways.trades import NotTrades
from closeloop.models.errors import NotAcceptable
from closeloop.services.imports import ImportSource, trades_source

ROWS_EXPLAINED = 5


@dataclass(frozen=True)
class Explained:
    """How a file's first rows are understood, and by which map. ``guessed``: it was found by the columns."""

    map: str
    about: str
    guessed: bool
    columns: list[str]
    rows: list[ExplainedRow]


@dataclass(frozen=True)
class TableSource:
    """What is to be imported of a table, and the map by which it is read."""

    map: str
    about: str
    guessed: bool
    source: ImportSource


def table_source(
    file: BinaryIO, name: str, map_: str | None = None, book: str | None = None, symbol: str | None = None
) -> TableSource:
    """The trades of a file, by the map of this name or path, or by the ready one that fits. Raises NotAcceptable."""
    table = _open(file, name, map_, book, symbol)
    source = trades_source(table.trades(), "trades", name)
    return TableSource(table.map.name, table.map.about, table.guessed, source)


def explained(
    file: BinaryIO, name: str, map_: str | None = None, book: str | None = None, symbol: str | None = None
) -> Explained:
    """How the first rows of a file are understood; nothing is stored. Raises NotAcceptable."""
    try:
        # What --book will say is no matter of understanding the rows.
        table = open_table(file, map_, book or "BOOK", symbol)
        rows = table.explain(ROWS_EXPLAINED)
    except NotTrades as error:
        raise NotAcceptable(f"{name}: {error}.") from None
    return Explained(table.map.name, table.map.about, table.guessed, table.columns, rows)


def _open(file: BinaryIO, name: str, map_: str | None, book: str | None, symbol: str | None) -> TradeTable:
    try:
        return open_table(file, map_, book, symbol)
    except NotTrades as error:
        raise NotAcceptable(f"{name}: {error}.") from None
