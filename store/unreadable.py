"""Positions that cannot be read: remembered, so that nobody reads them again until they change."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.positions import PositionKey
from closeloop.models.unreadable import UnreadablePosition, UnreadablePositionView
from closeloop.store.pages import page
from closeloop.store.rows import as_json, recordset

_KEY = "md5(ROW(p.book_id, p.position_id)::text)"
CONTENT = "md5(p::text)"
"""SQL for the digest of the row ``p`` of positions."""
KNOWN = f"EXISTS (SELECT FROM unreadable_positions u WHERE u.row_key = {_KEY})"
"""SQL for whether the row ``p`` of positions is remembered as unreadable."""


class Unreadable(NamedTuple):
    """A row that cannot be read; ``content`` is the digest of what was read."""

    key: PositionKey
    content: str
    reason: str


async def remember(session: AsyncSession, rows: Sequence[Unreadable]) -> int:
    """Remember rows, in one statement; returns how many were new or other than remembered."""
    if not rows:
        return 0
    given = [
        {"book_id": row.key.book, "position_id": row.key.position_id, "content": row.content, "reason": row.reason}
        for row in rows
    ]
    result = await session.execute(
        text(
            "INSERT INTO unreadable_positions (row_key, book_id, position_id, content, reason) "  # noqa: S608
            f"SELECT {_KEY}, p.book_id, p.position_id, p.content, p.reason FROM {recordset(UnreadablePosition)} p "
            "ON CONFLICT (row_key) DO UPDATE SET content = excluded.content, reason = excluded.reason, "
            "since = clock_timestamp() WHERE unreadable_positions.content <> excluded.content RETURNING 1"
        ),
        {"rows": as_json(given)},
    )
    return len(result.all())


async def forget_changed(session: AsyncSession) -> int:
    """Forget the rows that have changed, were attributed or deleted; returns how many. They are read again."""
    result = await session.execute(
        text(
            "DELETE FROM unreadable_positions u WHERE NOT EXISTS (SELECT FROM positions p "  # noqa: S608
            "WHERE (p.book_id, p.position_id) = (u.book_id, u.position_id) AND NOT p.attributed "
            f"AND p.closed_at IS NOT NULL AND {CONTENT} = u.content) RETURNING 1"
        )
    )
    return len(result.all())


async def forget(session: AsyncSession, book: str | None) -> int:
    """Forget what is remembered, of a book or of all, so that it is read again; returns how many rows."""
    query = text("DELETE FROM unreadable_positions WHERE CAST(:book AS text) IS NULL OR book_id = :book RETURNING 1")
    return len((await session.execute(query, {"book": book})).all())


async def hold(session: AsyncSession, key: PositionKey) -> str | None:
    """Lock a closed position without an attribution until the transaction ends; the digest of its row, None if none."""
    query = text(
        f"SELECT {CONTENT} FROM positions p WHERE (p.book_id, p.position_id) = (:book, :id) "  # noqa: S608
        "AND NOT p.attributed AND p.closed_at IS NOT NULL FOR UPDATE"
    )
    return (await session.execute(query, {"book": key.book, "id": key.position_id})).scalar_one_or_none()


async def count(session: AsyncSession) -> int:
    """How many are remembered."""
    return int((await session.execute(text("SELECT count(*) FROM unreadable_positions"))).scalar_one())


async def listing(
    session: AsyncSession, book: str | None, last: int | None = None, before: str | None = None
) -> list[UnreadablePositionView]:
    """What is remembered, by book and position, of a book or of all; at most the ``last`` before the one ``before``."""
    query = (
        "SELECT book_id || '/' || position_id AS name, book_id AS book, position_id, reason, since "
        "FROM unreadable_positions WHERE CAST(:book AS text) IS NULL OR book_id = :book"
    )
    result = await session.execute(
        text(page(query, key="name", order="book, position_id")), {"book": book, "last": last, "before": before}
    )
    return [UnreadablePositionView.model_validate(dict(row)) for row in result.mappings()]
