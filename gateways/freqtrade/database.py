"""A bot's own database (tradesv3.sqlite): read only, in one transaction, without a file made beside it."""

import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from closeloop.gateways.trades import NotTrades

SQLITE = b"SQLite format 3\0"

# What the REST answer calls a column that the database calls otherwise.
_REST_NAMES = {
    "id": "trade_id",
    "stake_currency": "quote_currency",
    "initial_stop_loss": "initial_stop_loss_abs",
    "initial_stop_loss_pct": "initial_stop_loss_ratio",
    "close_profit": "profit_ratio",
    "close_profit_abs": "profit_abs",
}
_FLAGS = ("is_open", "is_short")
_ROUNDED = ("amount", "stake_amount")  # as the REST answer rounds them: one trade is one message at both doors


def read_database(path: Path, limit: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The trades under the names of the REST answer, each with its orders; and the database's own names.

    Raises NotTrades, also where the file is larger than ``limit`` bytes.
    """
    wal = _beside(path, "-wal")
    try:
        if path.stat().st_size + (wal.stat().st_size if wal.exists() else 0) > limit:
            raise NotTrades(f"the database is larger than {limit // 1024**2} MiB: ask the bot (/api/v1/trades) instead")
        with _opened(path, wal) as connection:
            trades = _rows(connection, "trades")
            orders = _rows(connection, "orders", optional=True)
    except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
        raise NotTrades(
            f"the database cannot be read ({error}): stop the bot, or give a copy made with sqlite3's .backup"
        ) from None
    by_trade: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for order in orders:
        by_trade[order.get("ft_trade_id")].append(order)
    return [_as_answered(row, by_trade[row.get("id")]) for row in trades], {v: k for k, v in _REST_NAMES.items()}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextmanager
def _opened(path: Path, wal: Path) -> Iterator[sqlite3.Connection]:
    """A connection in a read transaction.

    A running bot keeps a -wal and a -shm beside its database, and SQLite reads all three consistently. A -wal without a
    -shm is of a copy, or of a bot that was killed: SQLite would make the -shm, so a copy elsewhere is read. Without a
    -wal nobody writes, and SQLite is told so, or it would make the files.
    """
    with tempfile.TemporaryDirectory() as folder:
        parameters = "mode=ro"
        if wal.exists() and not _beside(path, "-shm").exists():
            for each in (path, wal):
                shutil.copyfile(each, Path(folder) / each.name)
            path = Path(folder) / path.name
        elif not wal.exists() and not _beside(path, "-journal").exists():
            parameters = "mode=ro&immutable=1"
        uri = f"file:{quote(str(path.absolute()))}?{parameters}"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("BEGIN")
            yield connection


def _rows(connection: sqlite3.Connection, table: str, optional: bool = False) -> list[dict[str, Any]]:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    if not found:
        if optional:
            return []
        raise NotTrades(f'the database has no table "{table}": give the bot\'s own, tradesv3.sqlite')
    cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608 - one of two names above
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _as_answered(row: dict[str, Any], orders: list[dict[str, Any]]) -> dict[str, Any]:
    trade = {_REST_NAMES.get(name, name): value for name, value in row.items()}
    trade |= {flag: bool(trade[flag]) for flag in _FLAGS if trade.get(flag) in (0, 1)}
    trade |= {name: round(trade[name], 8) for name in _ROUNDED if isinstance(trade.get(name), float)}
    entry_side = "sell" if trade.get("is_short") is True else "buy"
    trade["orders"] = [order | {"ft_is_entry": order.get("ft_order_side") == entry_side} for order in orders]
    return trade
