"""Recalibration maps of producers: who is due for one, from which outcomes, and what was found."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.producers import RecalibrationMap, RecalibrationView
from closeloop.store.rows import execute, insertion


class RecalibrationDue(NamedTuple):
    """A producer with enough new outcomes since its last map (version 0: it has none), and as of when to count them."""

    producer_id: str
    outcomes: int
    version: int
    as_of: datetime


async def due(
    session: AsyncSession, book: str, as_of: datetime, min_outcomes: int, growth: float
) -> list[RecalibrationDue]:
    """Producers with at least ``min_outcomes`` outcomes, of which enough are new or one corrected since their last map.

    ``growth``: least number of new ones, as a share of the outcomes that the last map was fitted to. A map is never of
    an earlier instant than the one before it.
    """
    result = await session.execute(
        text(
            "WITH last AS (SELECT DISTINCT ON (producer_id) producer_id, version, n, as_of, outdated "
            "FROM recalibration_maps "
            "WHERE book_id = :book ORDER BY producer_id, version DESC), "
            "counted AS (SELECT o.producer_id, count(*) AS outcomes, coalesce(max(m.version), 0) AS version, "
            "max(m.n) AS n, bool_or(m.outdated) AS outdated, "
            "greatest(max(m.as_of), CAST(:as_of AS timestamptz)) AS as_of "
            "FROM forecast_outcomes o LEFT JOIN last m USING (producer_id) WHERE o.book_id = :book "
            "AND o.target_at <= greatest(m.as_of, CAST(:as_of AS timestamptz)) AND NOT o.shadow GROUP BY 1) "
            "SELECT producer_id, outcomes, version, as_of FROM counted WHERE outcomes >= :least "
            "AND (n IS NULL OR outdated OR outcomes - n >= n * CAST(:growth AS float8)) ORDER BY 1"
        ),
        {"book": book, "as_of": as_of, "least": min_outcomes, "growth": growth},
    )
    return [RecalibrationDue._make(row) for row in result]


async def confidence_history(
    session: AsyncSession, book: str, producer: str, as_of: datetime, limit: int
) -> list[tuple[Any, ...]]:
    """Rows (issued_at, target_at in µs since 1970, confidence, correct) of a producer's newest outcomes, by issue."""
    result = await session.execute(
        text(
            "SELECT (extract(epoch FROM issued_at) * 1000000)::bigint AS issued_at, "
            "(extract(epoch FROM target_at) * 1000000)::bigint AS target_at, confidence, direction_correct "
            "FROM (SELECT issued_at, target_at, confidence, direction_correct, forecast_id FROM forecast_outcomes "
            "WHERE book_id = :book AND producer_id = :producer AND target_at <= :as_of AND NOT shadow "
            "ORDER BY target_at DESC, forecast_id DESC LIMIT :limit) newest ORDER BY issued_at, forecast_id"
        ),
        {"book": book, "producer": producer, "as_of": as_of, "limit": limit},
    )
    return [tuple(row) for row in result]


async def write(session: AsyncSession, row: Mapping[str, Any]) -> bool:
    """Store a version of a map, once; False if that version is on record."""
    written = await execute(
        session, insertion(RecalibrationMap, [row], on_conflict="DO NOTHING", returning="producer_id")
    )
    return bool(written)


async def latest(
    session: AsyncSession, book: str | None, producer: str | None = None, as_of: datetime | None = None
) -> list[RecalibrationView]:
    """The last map of each producer, or the one that was the last at an instant."""
    result = await session.execute(
        text(
            "SELECT DISTINCT ON (book_id, producer_id) book_id AS book, producer_id, version, adopted, stated, "
            "recalibrated, evidence, n, as_of, policy_hash FROM recalibration_maps "
            "WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "
            "AND (CAST(:producer AS text) IS NULL OR producer_id = :producer) "
            "AND (CAST(:as_of AS timestamptz) IS NULL OR as_of <= :as_of) "
            "ORDER BY book_id, producer_id, version DESC"
        ),
        {"book": book, "producer": producer, "as_of": as_of},
    )
    return [RecalibrationView.model_validate(dict(row)) for row in result.mappings()]
