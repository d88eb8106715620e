"""How fast PostgreSQL itself takes the rows: ``COPY`` into the same tables, with the same indexes, on one disk."""

import io
import time
from collections.abc import Mapping

import asyncpg

_EVENTS = {"events": "payload ->> 'book'"}
# Tables that an import writes and the expression of a row's book; a table comes after those that it refers to.
IMPORT = {
    "positions": "book_id",
    "attributions": "book_id",
    "conviction_scores": "book_id",
    "conviction_log": "book_id",
    "producer_karma": "book_id",
    "learning_configs": "book_id",
    "pattern_trade_events": "book_id",
    **_EVENTS,
}
FORECASTS = {"forecasts": "book_id"}
RESOLUTION = {"forecast_outcomes": "book_id", **_EVENTS}
_COLUMNS = (
    "SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns "
    "WHERE table_name = $1 AND is_identity = 'NO' AND is_generated = 'NEVER'"
)


async def copying(
    dsn: str, book: str, tables: Mapping[str, str], referred_to: Mapping[str, str] | None = None
) -> float:
    """Seconds that it takes to COPY the rows of a book again, under another name as long, in one transaction.

    The rows of ``referred_to`` are there before that.
    """
    other = book[:-1] + ("x" if book[-1] != "x" else "y")
    connection = await asyncpg.connect(dsn)
    try:
        before = [await _read(connection, *table, book, other) for table in (referred_to or {}).items()]
        rows = [await _read(connection, *table, book, other) for table in tables.items()]
        await connection.execute("INSERT INTO books (book_id) VALUES ($1)", other)
        await _write(connection, before)
        started = time.perf_counter()
        await _write(connection, rows)
        return time.perf_counter() - started
    finally:
        await connection.close()


async def _read(
    connection: asyncpg.Connection, table: str, book_of: str, book: str, other: str
) -> tuple[str, list[str], bytes]:
    columns = await connection.fetchval(_COLUMNS, table)
    rows = io.BytesIO()
    query = f"SELECT {columns} FROM {table} WHERE {book_of} = $1"  # noqa: S608
    await connection.copy_from_query(query, book, output=rows)
    return table, columns.split(", "), rows.getvalue().replace(book.encode(), other.encode())


async def _write(connection: asyncpg.Connection, tables: list[tuple[str, list[str], bytes]]) -> None:
    async with connection.transaction():
        for table, names, content in tables:
            await connection.copy_to_table(table, source=io.BytesIO(content), columns=names)
