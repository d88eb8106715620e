"""Karma of producers, as stored."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.positions import ProducerKarma, ProducerTrust
from closeloop.store import locks
from closeloop.store.pages import page
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

ProducerKey = tuple[str, str]

_BOOK_LOCK = locks.book_karma("book_id")
# ON CONFLICT DO UPDATE locks a row that exists and returns its newest version, although it sets karma to itself. The
# lock function is volatile, so that the planner cannot merge the subquery into the INSERT and leave the call out.
_LOCK = (
    "INSERT INTO producer_karma (book_id, producer_id, karma, wins, losses, trades) "  # noqa: S608
    "SELECT book_id, producer_id, karma, wins, losses, trades FROM "
    f"(SELECT r.*, pg_advisory_xact_lock_shared({_BOOK_LOCK}) FROM {recordset(ProducerKarma)} r) locked "
    "ON CONFLICT (book_id, producer_id) DO UPDATE SET karma = producer_karma.karma "
    "RETURNING book_id, producer_id, karma"
)
_ADD = (
    "UPDATE producer_karma k SET karma = r.karma, wins = k.wins + r.wins, losses = k.losses + r.losses, "  # noqa: S608
    f"trades = k.trades + r.trades, updated_at = clock_timestamp() FROM {recordset(ProducerKarma)} r "
    "WHERE (k.book_id, k.producer_id) = (r.book_id, r.producer_id)"
)


async def lock(session: AsyncSession, producers: Sequence[ProducerKey], start: float) -> dict[ProducerKey, float]:
    """Karma of (book, producer) pairs, whose rows are locked until the transaction ends.

    A producer that is not on record is created with karma ``start``. Rows are locked by key, so that transactions with
    the same producers wait for each other instead of deadlocking. A shared lock on each book keeps a rebuild out.
    """
    if not producers:
        return {}
    rows = await execute(session, Write(_LOCK, as_json([_row(key, start, 0, 0) for key in sorted(producers)])))
    return {(r.book_id, r.producer_id): r.karma for r in rows}


def addition(steps: Mapping[ProducerKey, tuple[float, int, int]]) -> Write:
    """The write that stores the karma of locked producers and adds to their counts: (karma, wins, losses) by key."""
    return Write(_ADD, as_json([_row(key, *step) for key, step in steps.items()]))


async def lock_book(session: AsyncSession, book: str) -> None:
    """Lock the karma of a book until the transaction ends: closes of the book wait, and so does another rebuild.

    Statements after this one see every attribution whose karma is stored. A close that waits meanwhile takes its step
    from the karma that this transaction stores.
    """
    await session.execute(
        text(f"SELECT pg_advisory_xact_lock({_BOOK_LOCK}) FROM (SELECT CAST(:book AS text) AS book_id) b"),  # noqa: S608
        {"book": book},
    )


async def replace(session: AsyncSession, book: str, totals: Mapping[str, tuple[float, int, int]]) -> None:
    """Set a book's karma to these totals, by producer. The caller holds the book's karma."""
    await session.execute(text("DELETE FROM producer_karma WHERE book_id = :book"), {"book": book})
    await execute(session, insertion(ProducerKarma, [_row((book, p), *total) for p, total in sorted(totals.items())]))


async def outcomes_in_order(session: AsyncSession, book: str) -> AsyncIterator[tuple[list[str], bool]]:
    """(producers, won) of every attribution of a book by (closed_at, position_id), streamed."""
    result = await session.stream(
        text(
            "SELECT producers, direction_correct FROM attributions WHERE book_id = :book AND producers <> '{}' "
            "ORDER BY closed_at, position_id"
        ),
        {"book": book},
        execution_options={"yield_per": 2000},
    )
    async for batch in result.partitions():  # row by row, the loop would wait once for each row
        for row in batch:
            yield row.producers, row.direction_correct


async def listing(
    session: AsyncSession, book: str | None, last: int | None = None, before: str | None = None
) -> list[ProducerTrust]:
    """Karma of every producer, of one book or of all, the most trusted of a book first.

    Only the ``last`` of them, and of those only what comes before the producer ``before`` (BOOK/PRODUCER).
    """
    query = (
        "SELECT book_id AS book, producer_id, karma, wins, losses, trades, updated_at, "
        "book_id || '/' || producer_id AS name FROM producer_karma WHERE CAST(:book AS text) IS NULL OR book_id = :book"
    )
    result = await session.execute(
        text(page(query, key="name", order="book, karma DESC, producer_id")),
        {"book": book, "last": last, "before": before},
    )
    return [ProducerTrust.model_validate(dict(row)) for row in result.mappings()]


def _row(key: ProducerKey, karma: float, wins: int, losses: int) -> dict[str, Any]:
    book, producer = key
    return {
        "book_id": book,
        "producer_id": producer,
        "karma": karma,
        "wins": wins,
        "losses": losses,
        "trades": wins + losses,
    }
