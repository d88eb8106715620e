"""The inbox: which messages were accepted at the HTTP door."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.inbox import InboxMessage, Kind
from closeloop.store import locks
from closeloop.store.rows import execute, insertion

Key = tuple[str, str]
"""A message's book and id."""


async def add(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Record accepted messages (all with the same keys); those that are new, as (book, kind, id)."""
    in_order = sorted(rows, key=lambda row: (row["book_id"], row["kind"], row["message_id"]))
    added = await execute(
        session,
        insertion(
            InboxMessage,
            in_order,
            on_conflict="(book_id, kind, message_id) DO NOTHING",
            returning="book_id, kind, message_id",
        ),
    )
    return {(row.book_id, row.kind, row.message_id) for row in added}


async def hold(session: AsyncSession, kind: Kind, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    """What was sent of these messages of a kind that has no table of its own, of those that are there.

    Nobody else adds one of these books' messages of this kind before the transaction ends.
    """
    for book in sorted({book for book, _ in keys}):
        await locks.book_messages(session, book, kind)
    result = await session.execute(
        text(
            "SELECT book_id, message_id, message FROM inbox WHERE kind = :kind AND (book_id, message_id) IN "
            "(SELECT * FROM unnest(CAST(:books AS text[]), CAST(:ids AS text[])))"
        ),
        {"kind": kind, "books": [book for book, _ in keys], "ids": [name for _, name in keys]},
    )
    return {(row.book_id, row.message_id): row.message for row in result}


async def counts(session: AsyncSession, since: datetime) -> dict[str, int]:
    """How many messages of each kind were accepted since an instant."""
    query = text(
        "SELECT k.kind, n.n FROM unnest(CAST(:kinds AS text[])) k (kind) CROSS JOIN LATERAL "
        "(SELECT count(*) AS n FROM inbox i WHERE i.kind = k.kind AND i.received_at >= :since) n WHERE n.n > 0"
    )
    found = await session.execute(query, {"since": since, "kinds": [kind.value for kind in Kind]})
    return {row.kind: row.n for row in found}
