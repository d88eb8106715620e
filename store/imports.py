"""Imports: rows that wait to be attributed, rows that were refused, and how many became what."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.imports import ImportNote, ImportProgress, ImportRejection, ImportRow, NotedRow, RejectedRow
from closeloop.store.rows import execute, insertion


@dataclass(frozen=True)
class StagedRow:
    """A row that waits: ``seq`` is its place in the import, ``row_index`` that in the file, ``payload`` its text."""

    seq: int
    row_index: int
    payload: str


@dataclass(frozen=True)
class RefusedImportRow:
    """A row that was refused, and why; ``book`` is None where none could be read from it."""

    seq: int
    row_index: int
    book: str | None
    reason: str


@dataclass(frozen=True)
class RowNote:
    """An optional field that was left out of a row, and why."""

    seq: int
    row_index: int
    book: str
    field: str
    reason: str


@dataclass(frozen=True)
class StagedImport:
    """An import whose rows are all staged. ``content`` is their digest, ``source`` what the file is called."""

    import_id: str
    content: str
    total: int
    source: str


async def create(session: AsyncSession, import_id: str, source: str) -> None:
    """Open an import, to which rows are added until it is complete."""
    await session.execute(
        text("INSERT INTO imports (import_id, source, total) VALUES (:id, :source, 0)"),
        {"id": import_id, "source": source},
    )


async def touch(session: AsyncSession, import_id: str) -> bool:
    """Lock an import that rows are being added to until the transaction ends; False if it was dropped meanwhile."""
    query = text(
        "UPDATE imports SET touched_at = clock_timestamp() WHERE import_id = :id AND staged_at IS NULL RETURNING 1"
    )
    return (await session.execute(query, {"id": import_id})).first() is not None


async def complete(session: AsyncSession, import_id: str, content: str) -> None:
    """All rows of an import are staged: from now on it is carried out, whatever becomes of who staged it."""
    await session.execute(
        text("UPDATE imports SET staged_at = clock_timestamp(), content = :content WHERE import_id = :id"),
        {"id": import_id, "content": content},
    )


async def not_taken_up(session: AsyncSession, seconds: int, limit: int) -> list[StagedImport]:
    """Imports that were complete so many seconds ago and that no worker has taken up, the oldest first."""
    result = await session.execute(
        text(
            "SELECT import_id, content, total, source FROM imports WHERE started_at IS NULL AND content IS NOT NULL "
            "AND staged_at < clock_timestamp() - make_interval(secs => :seconds) ORDER BY staged_at LIMIT :limit"
        ),
        {"seconds": seconds, "limit": limit},
    )
    return [StagedImport(**row) for row in result.mappings()]


async def stage(
    session: AsyncSession,
    import_id: str,
    rows: Sequence[StagedRow],
    refused: Sequence[RefusedImportRow],
    counts: Mapping[str, Mapping[str, int]] | None = None,
    notes: Sequence[RowNote] = (),
) -> None:
    """Add rows to an import that has not been started; some may be refused as they are read.

    ``counts``, by book: ``still_open`` rows, which are read and settled with that, and how many of the staged ones are
    ``corrected``.
    """
    found = {book: dict(more) for book, more in (counts or {}).items()}
    still_open = sum(more.get("still_open", 0) for more in found.values())
    for more in found.values():
        more["read"] = more.get("still_open", 0)
    staged = [{"import_id": import_id, "seq": r.seq, "row_index": r.row_index, "payload": r.payload} for r in rows]
    await execute(session, insertion(ImportRow, staged))
    await session.execute(
        text("UPDATE imports SET total = total + :rows WHERE import_id = :id"),
        {"id": import_id, "rows": len(rows) + len(refused) + still_open},
    )
    if refused or found or notes:
        await settle(session, import_id, len(refused) + still_open, found, refused, notes)


async def take_up(session: AsyncSession, import_id: str) -> bool:
    """Record that a worker has taken up an import; False if there is no such import."""
    query = text(
        "UPDATE imports SET started_at = coalesce(started_at, clock_timestamp()) WHERE import_id = :id RETURNING 1"
    )
    return (await session.execute(query, {"id": import_id})).first() is not None


async def lock(session: AsyncSession, import_id: str) -> None:
    """Lock an import until the transaction ends.

    Temporal starts a second attempt when a worker sends no heartbeat, and the first attempt may still be running: then
    two attempts work on one import, and this lock lets them go one after the other.
    """
    await session.execute(text("SELECT 1 FROM imports WHERE import_id = :id FOR UPDATE"), {"id": import_id})


async def waiting(
    session: AsyncSession, import_id: str, after: int | None, limit: int, limit_bytes: int
) -> list[StagedRow]:
    """The next rows in the file's order, after the place ``after``; at least one, if there is one."""
    result = await session.execute(
        text(
            "SELECT seq, row_index, payload FROM (SELECT *, row_number() OVER w AS number, "
            "sum(octet_length(payload)) OVER w AS bytes FROM (SELECT seq, row_index, payload FROM import_rows "
            "WHERE import_id = :id AND seq > :after ORDER BY seq LIMIT :limit) next "
            "WINDOW w AS (ORDER BY seq)) counted WHERE number = 1 OR bytes <= :limit_bytes ORDER BY seq"
        ),
        {"id": import_id, "after": -1 if after is None else after, "limit": limit, "limit_bytes": limit_bytes},
    )
    return [StagedRow(row.seq, row.row_index, row.payload) for row in result]


async def take(session: AsyncSession, import_id: str, first: int, last: int) -> set[int]:
    """Delete the staged rows with ``seq`` from ``first`` to ``last``; returns the ``seq`` of those that were there.

    A row that another attempt has taken is not among them. The caller holds the import's lock.
    """
    result = await session.execute(
        text("DELETE FROM import_rows WHERE import_id = :id AND seq BETWEEN :first AND :last RETURNING seq"),
        {"id": import_id, "first": first, "last": last},
    )
    return set(result.scalars())


async def settle(
    session: AsyncSession,
    import_id: str,
    done: int,
    counts: Mapping[str, Mapping[str, int]],
    refused: Sequence[RefusedImportRow],
    notes: Sequence[RowNote] = (),
) -> None:
    """Record what became of ``done`` rows: ``counts`` by book of those that were not refused, and the refused ones.

    What was noted of a row that is refused after all is forgotten: nothing of it was taken.

    The caller holds the import's lock, or has just created the import, so that nobody else can know it.
    """
    rejections = [
        {"import_id": import_id, "seq": r.seq, "row_index": r.row_index, "book": r.book, "reason": r.reason[:2000]}
        for r in refused
    ]
    noted = [
        {
            "import_id": import_id,
            "seq": n.seq,
            "field": n.field[:200],
            "row_index": n.row_index,
            "book": n.book,
            "reason": n.reason[:2000],
        }
        for n in notes
    ]
    if refused:
        await session.execute(
            text("DELETE FROM import_notes WHERE import_id = :id AND seq = ANY(CAST(:refused AS int[]))"),
            {"id": import_id, "refused": [r.seq for r in refused]},
        )
    await execute(
        session,
        insertion(ImportRejection, rejections),
        insertion(ImportNote, noted, on_conflict="(import_id, seq, field) DO NOTHING"),
    )
    query = text("SELECT counts FROM imports WHERE import_id = :id")
    totals = {book: Counter(c) for book, c in (await session.execute(query, {"id": import_id})).scalar_one().items()}
    for book, more in [*counts.items(), *((r.book, {"read": 1}) for r in refused if r.book is not None)]:
        totals.setdefault(book, Counter()).update(more)
    await session.execute(
        text("UPDATE imports SET done = done + :done, counts = CAST(:counts AS jsonb) WHERE import_id = :id"),
        {"id": import_id, "done": done, "counts": json.dumps(totals)},
    )


async def progress(session: AsyncSession, import_id: str) -> ImportProgress | None:
    """How far an import has come."""
    result = await session.execute(text("SELECT done, total FROM imports WHERE import_id = :id"), {"id": import_id})
    row = result.first()
    return None if row is None else ImportProgress(import_id=import_id, done=row.done, total=row.total)


async def counts(session: AsyncSession, import_id: str) -> dict[str, Any] | None:
    """Counts by book; None if the import is unknown."""
    result = await session.execute(text("SELECT counts FROM imports WHERE import_id = :id"), {"id": import_id})
    found: dict[str, Any] | None = result.scalar_one_or_none()
    return found


async def rejection_count(session: AsyncSession, import_id: str) -> int:
    """How many rows were refused."""
    query = text("SELECT count(*) FROM import_rejections WHERE import_id = :id")
    return int((await session.execute(query, {"id": import_id})).scalar_one())


async def rejections(
    session: AsyncSession, import_id: str, limit: int | None = None
) -> AsyncIterator[tuple[str | None, RejectedRow]]:
    """Refused rows in the file's order, streamed, each with its book, if one could be read; at most ``limit``."""
    query = "SELECT row_index, book, reason FROM import_rejections WHERE import_id = :id ORDER BY seq LIMIT :limit"
    async for row in _streamed(session, query, {"id": import_id, "limit": limit}):
        yield row.book, RejectedRow(index=row.row_index, reason=row.reason)


async def rejections_of(session: AsyncSession, import_id: str, book: str | None) -> AsyncIterator[RejectedRow]:
    """Refused rows of a book (None: those from which no book could be read) in the file's order, streamed."""
    query = (
        "SELECT row_index, reason FROM import_rejections "
        "WHERE import_id = :id AND book IS NOT DISTINCT FROM CAST(:book AS text) ORDER BY seq"
    )
    async for row in _streamed(session, query, {"id": import_id, "book": book}):
        yield RejectedRow(index=row.row_index, reason=row.reason)


async def notes(
    session: AsyncSession, import_id: str, book: str | None = None, limit: int | None = None
) -> AsyncIterator[tuple[str, NotedRow]]:
    """What was noted of rows (of a book, or of all) in the file's order, streamed, each with its book."""
    query = (
        "SELECT row_index, book, field, reason FROM import_notes WHERE import_id = :id "
        "AND (CAST(:book AS text) IS NULL OR book = :book) ORDER BY seq, field LIMIT :limit"
    )
    async for row in _streamed(session, query, {"id": import_id, "book": book, "limit": limit}):
        yield row.book, NotedRow(index=row.row_index, field=row.field, reason=row.reason)


async def note_counts(session: AsyncSession, import_id: str) -> dict[str, int]:
    """How many fields were noted, by book; a book without notes is left out."""
    query = text("SELECT book, count(*) AS fields FROM import_notes WHERE import_id = :id GROUP BY book")
    return {row.book: int(row.fields) for row in await session.execute(query, {"id": import_id})}


async def _streamed(session: AsyncSession, query: str, values: dict[str, Any]) -> AsyncIterator[Any]:
    result = await session.stream(text(query), values, execution_options={"yield_per": 1000})
    async for batch in result.partitions():
        for row in batch:
            yield row


async def drop(session: AsyncSession, import_id: str) -> None:
    """Delete an import that no worker has taken up, and what it said of its run."""
    query = text("DELETE FROM imports WHERE import_id = :id AND started_at IS NULL RETURNING 1")
    if (await session.execute(query, {"id": import_id})).first() is not None:
        await session.execute(text("DELETE FROM book_runs WHERE import_id = :id"), {"id": import_id})


async def drop_abandoned(session: AsyncSession, hours: int) -> int:
    """Delete imports to which no row was added for so long and that were never complete; returns how many."""
    query = text(
        "DELETE FROM imports WHERE staged_at IS NULL AND started_at IS NULL "
        "AND touched_at < clock_timestamp() - make_interval(hours => :hours) RETURNING 1"
    )
    return len((await session.execute(query, {"hours": hours})).all())


async def drop_older_than(session: AsyncSession, days: int) -> int:
    """Delete imports created more than ``days`` days ago, with their refusals; returns how many.

    The attributions that they wrote stay, and the runs that these are of. What never came to its end took no run in.
    """
    await session.execute(
        text(
            "DELETE FROM book_runs r USING imports i WHERE r.import_id = i.import_id AND i.done < i.total "
            "AND i.created_at < clock_timestamp() - make_interval(days => :days) "
            "AND NOT EXISTS (SELECT 1 FROM attributions a WHERE a.book_id = r.book_id "
            "AND a.attributed_by = i.import_id)"
        ),
        {"days": days},
    )
    result = await session.execute(
        text("DELETE FROM imports WHERE created_at < clock_timestamp() - make_interval(days => :days) RETURNING 1"),
        {"days": days},
    )
    return len(result.all())
