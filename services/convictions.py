"""Convictions: recording them, before their positions close or after."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.convictions import ConvictionsReport, ConvictionStatus, RecordedConviction
from closeloop.models.errors import BookArchived
from closeloop.models.events import EventType
from closeloop.services import books
from closeloop.store.convictions import ConvictionTrade
from closeloop.store.late_convictions import WaitingClose

CLOSES_AT_ONCE = 1_000  # that are completed in one transaction


async def record(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> ConvictionsReport:
    """Record convictions, so that a close need only name one's id; the first recording stands.

    Closes on record that named one of them are completed, in the caller's transaction: what was believed at entry, the
    conviction's outcome, and an event that says so. A close that is being recorded at the same time may be missed: the
    next catch-up completes it. Raises BookArchived, and records none, where one is of a book that was removed.
    """
    for archived in (await store.books.archived(session, {one.book for one in convictions})).values():
        raise BookArchived(f"Nothing was recorded: {books.archived_sentence(archived)}.")
    added = await store.convictions.record_ahead(session, convictions)
    waiting = await store.late_convictions.waiting_for(session, convictions) if convictions else []
    return ConvictionsReport(
        added=added, already_recorded=len(convictions) - added, completed=await _complete(session, waiting)
    )


async def complete_closes(session: AsyncSession, since: datetime) -> int | None:
    """Complete closes whose conviction was recorded since, some of them, in the caller's transaction.

    How many were completed; None where none is left. Killed anywhere and run again, or run twice at once, it completes
    each close once.
    """
    waiting = await store.late_convictions.waiting_since(session, since, CLOSES_AT_ONCE)
    return await _complete(session, waiting) if waiting else None


async def _complete(session: AsyncSession, waiting: Sequence[WaitingClose]) -> int:
    """Complete these closes, which this transaction has locked; how many of them were waiting for nothing else."""
    now = datetime.now(UTC)
    done = [close for close in waiting if close.status is not ConvictionStatus.unknown]
    trades = [
        ConvictionTrade(close.key.book, close.conviction_id, 1 if close.won else -1, close.opened_at, close.closed_at)
        for close in waiting
    ]
    await store.rows.execute(
        session,
        store.late_convictions.completing(waiting, now),
        store.convictions.setting_outcomes(trades),
        store.events.appending([_event(close, now) for close in done]),
    )
    return len(done)


def _event(close: WaitingClose, now: datetime) -> tuple[EventType, str, dict[str, Any]]:
    payload = {
        "book": close.key.book,
        "position_id": close.key.position_id,
        "conviction_id": close.conviction_id,
        "cycle_id": close.cycle_id,
        "conviction_status": close.status,
        "domain_scores_at_entry": close.scores if close.status is ConvictionStatus.recorded else None,
        "completed_at": now,
    }
    return EventType.attribution_completed, f"{close.key.book}/{close.key.position_id}", payload
