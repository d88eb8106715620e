"""Convictions that came after the closes that name them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.convictions import ConvictionStatus, RecordedConviction
from closeloop.models.positions import Attribution, PositionKey
from closeloop.store.rows import Write, as_json, recordset

# A close and a conviction that are recorded at the same time may not see each other. Each look begins so long before
# the last one that every transaction that was under way then has ended: statements have five minutes, pauses two.
OVERLAP = timedelta(hours=1)

_GIVEN = (
    "came AS MATERIALIZED (SELECT * FROM json_to_recordset(CAST(:came AS json)) "
    "AS c(book_id text, id text, cycle_id text, symbol text)), "
    "names AS (SELECT book_id, id FROM came), logs AS (SELECT book_id, cycle_id, symbol FROM came)"
)
_SINCE = (
    "names AS (SELECT book_id, id FROM conviction_scores WHERE recorded_at >= :since), "
    "logs AS (SELECT book_id, cycle_id, symbol FROM conviction_log WHERE recorded_at >= :since)"
)
# Of a close that waits: either the scores are on record now, or at least which cycle the conviction is of.
_WAITING = (
    ", candidates AS ("
    "SELECT a.book_id, a.position_id FROM names n JOIN attributions a "
    "ON (a.book_id, a.conviction_id) = (n.book_id, n.id) AND a.conviction_status = 'unknown' "
    "UNION SELECT a.book_id, a.position_id FROM logs l JOIN attributions a "
    "ON (a.book_id, a.cycle_id, a.symbol) = (l.book_id, l.cycle_id, l.symbol) AND a.conviction_status = 'unknown') "
    "SELECT a.book_id, a.position_id, a.conviction_id, a.opened_at, a.closed_at, a.direction_correct, "
    "coalesce(a.cycle_id, s.cycle_id) AS cycle_id, l.domain_scores, "
    "coalesce(l.formed_at > a.opened_at, false) AS formed_later "
    "FROM candidates c JOIN attributions a USING (book_id, position_id) "
    "LEFT JOIN conviction_scores s ON (s.book_id, s.id) = (a.book_id, a.conviction_id) "
    "LEFT JOIN conviction_log l ON (l.book_id, l.cycle_id, l.symbol) "
    "= (a.book_id, coalesce(a.cycle_id, s.cycle_id), a.symbol) "
    "WHERE a.conviction_status = 'unknown' "
    "AND (l.domain_scores IS NOT NULL OR (a.cycle_id IS NULL AND s.cycle_id IS NOT NULL)) "
    "ORDER BY a.book_id, a.position_id LIMIT :limit FOR UPDATE OF a"
)
_COMPLETE = (
    "UPDATE attributions a SET conviction_status = r.conviction_status, "  # noqa: S608
    "domain_scores_at_entry = r.domain_scores_at_entry, cycle_id = r.cycle_id, completed_at = r.completed_at "
    f"FROM {recordset(Attribution)} r WHERE (a.book_id, a.position_id) = (r.book_id, r.position_id) "
    "AND a.conviction_status = 'unknown'"
)


class WaitingClose(NamedTuple):
    """A close that named a conviction which was not on record, and what is on record of it now."""

    key: PositionKey
    conviction_id: str
    opened_at: datetime
    closed_at: datetime
    won: bool
    cycle_id: str
    scores: dict[str, float] | None
    formed_later: bool

    @property
    def status(self) -> ConvictionStatus:
        """Where its scores come from now."""
        if self.scores is None:
            return ConvictionStatus.unknown
        return ConvictionStatus.formed_later if self.formed_later else ConvictionStatus.recorded


async def waiting_for(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> list[WaitingClose]:
    """Closes that wait for one of these convictions, which are on record, by key; locked until the transaction ends."""
    came = [{"book_id": c.book, "id": c.conviction_id, "cycle_id": c.cycle_id, "symbol": c.symbol} for c in convictions]
    return await _waiting(session, _GIVEN, {"came": as_json(came), "limit": None})


async def waiting_since(session: AsyncSession, since: datetime, limit: int) -> list[WaitingClose]:
    """Closes that wait for a conviction that was recorded since, by key, at most ``limit``; locked as above."""
    return await _waiting(session, _SINCE, {"since": since, "limit": limit})


async def _waiting(session: AsyncSession, came: str, values: dict[str, Any]) -> list[WaitingClose]:
    await session.execute(text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"))
    result = await session.execute(text(f"WITH {came}{_WAITING}"), values)
    return [WaitingClose(PositionKey(row.book_id, row.position_id), *row[2:]) for row in result]


def completing(closes: Sequence[WaitingClose], now: datetime) -> Write | None:
    """The write that completes the attributions of these closes, each once."""
    rows = [
        {
            "book_id": close.key.book,
            "position_id": close.key.position_id,
            "conviction_status": close.status,
            "domain_scores_at_entry": close.scores if close.status is ConvictionStatus.recorded else None,
            "cycle_id": close.cycle_id,
            "completed_at": None if close.status is ConvictionStatus.unknown else now,
        }
        for close in closes
    ]
    return Write(_COMPLETE, as_json(rows)) if rows else None


async def next_look(session: AsyncSession) -> tuple[datetime, datetime]:
    """The time of this look for convictions that came late, and since when it looks."""
    row = await session.execute(
        text(
            "SELECT clock_timestamp() AS now, coalesce((SELECT looked_at FROM conviction_watermark) - "
            "CAST(:overlap AS interval), '1970-01-01Z') AS since"
        ),
        {"overlap": OVERLAP},
    )
    found = row.one()
    return found.now, found.since


async def looked(session: AsyncSession, at: datetime) -> None:
    """What was recorded until ``at``, less the overlap, has been looked at."""
    await session.execute(
        text(
            "INSERT INTO conviction_watermark AS w (looked_at) VALUES (:at) "
            "ON CONFLICT (one_row) DO UPDATE SET looked_at = greatest(w.looked_at, excluded.looked_at)"
        ),
        {"at": at},
    )
