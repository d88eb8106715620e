"""What PostgreSQL takes: ``COPY`` of an import's rows into the same tables, with the same indexes, on the same disk."""

import io
import time

import asyncpg

# Tables that an import writes, those first that others refer to, and how a row names its book.
_BOOK_OF = {
    "positions": "book_id",
    "attributions": "book_id",
    "conviction_scores": "book_id",
    "conviction_log": "book_id",
    "producer_karma": "book_id",
    "learning_configs": "book_id",
    "pattern_trade_events": "book_id",
    "events": "payload ->> 'book'",
}
_COLUMNS = (
    "SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns "
    "WHERE table_name = $1 AND is_identity = 'NO' AND is_generated = 'NEVER'"
)


async def copying(dsn: str, book: str) -> float:
    """Seconds that it takes to COPY all rows of a book again, under another name as long, in one transaction."""
    other = book[:-1] + ("x" if book[-1] != "x" else "y")
    connection = await asyncpg.connect(dsn)
    try:
        tables = []
        for table, book_of in _BOOK_OF.items():
            columns = await connection.fetchval(_COLUMNS, table)
            rows = io.BytesIO()
            query = f"SELECT {columns} FROM {table} WHERE {book_of} = $1"  # noqa: S608
            await connection.copy_from_query(query, book, output=rows)
            tables.append((table, columns.split(", "), rows.getvalue().replace(book.encode(), other.encode())))
        await connection.execute("INSERT INTO books (book_id) VALUES ($1)", other)
        started = time.perf_counter()
        async with connection.transaction():
            for table, names, content in tables:
                await connection.copy_to_table(table, source=io.BytesIO(content), columns=names)
        return time.perf_counter() - started
    finally:
        await connection.close()
