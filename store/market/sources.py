"""The market's sources: when each was asked and answered last, and up to where what it has is on record."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market_sources import CANDLES, SourceStanding

MOST_LISTED = 200  # there is one for each component of BTC and ALT, of which a policy has at most 100


async def listing(session: AsyncSession) -> list[SourceStanding]:
    """How each source does, by name."""
    result = await session.execute(
        text("SELECT * FROM market_sources ORDER BY source LIMIT :most"), {"most": MOST_LISTED}
    )
    return [SourceStanding.model_validate(dict(row)) for row in result.mappings()]


async def keep_candles_of(session: AsyncSession, sources: Sequence[str]) -> None:
    """Forget the sources of candles but these: nobody asks them any more, and what they fail for means nothing."""
    await session.execute(
        text(
            "DELETE FROM market_sources WHERE starts_with(source, :candles) "
            "AND NOT source = ANY(CAST(:sources AS text[]))"
        ),
        {"candles": CANDLES, "sources": list(sources)},
    )


async def answered(
    session: AsyncSession,
    source: str,
    asked_at: datetime,
    *,
    collected_until: datetime | None = None,
    updated_at: datetime | None = None,
    next_attempt_at: datetime | None = None,
) -> bool:
    """A source answered; whether what it says is newer (``updated_at``) than what it said before.

    ``collected_until`` never goes back: of two runs that asked at the same time, one may be behind. Locks the source.
    """
    before = await session.execute(
        text("SELECT updated_at FROM market_sources WHERE source = :source FOR UPDATE"), {"source": source}
    )
    said = before.scalar_one_or_none()
    await session.execute(
        text(
            "INSERT INTO market_sources AS m (source, asked_at, answered_at, updated_at, collected_until, "
            "next_attempt_at) "
            "VALUES (:source, :asked_at, :asked_at, :updated_at, :collected_until, :next_attempt_at) "
            "ON CONFLICT (source) DO UPDATE SET asked_at = excluded.asked_at, answered_at = excluded.answered_at, "
            "updated_at = greatest(m.updated_at, excluded.updated_at), "
            "collected_until = greatest(m.collected_until, excluded.collected_until), "
            "failures = 0, reason = NULL, next_attempt_at = excluded.next_attempt_at"
        ),
        {
            "source": source,
            "asked_at": asked_at,
            "collected_until": collected_until,
            "updated_at": updated_at,
            "next_attempt_at": next_attempt_at,
        },
    )
    return updated_at is not None and (said is None or said < updated_at)


async def failed(
    session: AsyncSession,
    failures: Mapping[str, str],
    asked_at: datetime,
    first: timedelta,
    longest: timedelta,
    at_least: timedelta = timedelta(0),
) -> None:
    """These sources gave nothing, and why: each is asked again ``first`` later, then after twice as long each time, up
    to ``longest``, and never before ``at_least``, for which it asked."""
    await session.execute(
        text(
            "INSERT INTO market_sources AS m (source, asked_at, failures, reason, next_attempt_at) "
            "SELECT f.source, :asked_at, 1, f.reason, CAST(:asked_at AS timestamptz) + "
            "greatest(CAST(:at_least AS interval), CAST(:first AS interval)) "
            "FROM unnest(CAST(:sources AS text[]), CAST(:reasons AS text[])) AS f (source, reason) "
            'ORDER BY f.source COLLATE "C" '
            "ON CONFLICT (source) DO UPDATE SET asked_at = excluded.asked_at, failures = m.failures + 1, "
            "reason = excluded.reason, next_attempt_at = excluded.asked_at + greatest(CAST(:at_least AS interval), "
            "least(CAST(:longest AS interval), CAST(:first AS interval) * power(2, least(m.failures, 10))))"
        ),
        {
            "sources": list(failures),
            "reasons": [reason[:500] for reason in failures.values()],
            "asked_at": asked_at,
            "first": first,
            "longest": longest,
            "at_least": at_least,
        },
    )
