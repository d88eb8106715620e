"""The price source, asset by asset: when it was asked last, and when it may be again after it failed for one."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.prices import SourceFailure


class Asked(NamedTuple):
    """How asking for an asset went the last time; ``next_attempt_at`` is null where it was answered."""

    asked_at: datetime
    reason: str | None
    next_attempt_at: datetime | None


async def asked(session: AsyncSession, assets: Sequence[str]) -> dict[str, Asked]:
    """How it went for these assets, where they were asked for before."""
    result = await session.execute(
        text(
            "SELECT asset, asked_at, reason, next_attempt_at FROM price_source_assets "
            "WHERE asset = ANY(CAST(:assets AS text[]))"
        ),
        {"assets": list(assets)},
    )
    return {row.asset: Asked(row.asked_at, row.reason, row.next_attempt_at) for row in result}


async def answered(session: AsyncSession, asset: str, asked_at: datetime) -> None:
    """The source gave what it has of an asset."""
    await session.execute(
        text(
            "INSERT INTO price_source_assets (asset, asked_at) VALUES (:asset, :asked_at) ON CONFLICT (asset) "
            "DO UPDATE SET asked_at = excluded.asked_at, failures = 0, reason = NULL, next_attempt_at = NULL"
        ),
        {"asset": asset, "asked_at": asked_at},
    )


async def failed(
    session: AsyncSession,
    failures: Mapping[str, str],
    asked_at: datetime,
    as_of: datetime,
    first: timedelta,
    longest: timedelta,
) -> None:
    """The source gave nothing for these assets, and why: ``first`` after ``as_of`` each is tried again, then after
    twice as long each time, up to ``longest``."""
    await session.execute(
        text(
            "INSERT INTO price_source_assets AS a (asset, asked_at, failures, reason, next_attempt_at) "
            "SELECT f.asset, :asked_at, 1, f.reason, CAST(:as_of AS timestamptz) + CAST(:first AS interval) "
            "FROM unnest(CAST(:assets AS text[]), CAST(:reasons AS text[])) AS f (asset, reason) ORDER BY f.asset "
            "ON CONFLICT (asset) DO UPDATE SET asked_at = excluded.asked_at, failures = a.failures + 1, "
            "reason = excluded.reason, next_attempt_at = CAST(:as_of AS timestamptz) + "
            "least(CAST(:longest AS interval), CAST(:first AS interval) * power(2, least(a.failures, 10)))"
        ),
        {
            "assets": list(failures),
            "reasons": [reason[:1_000] for reason in failures.values()],
            "asked_at": asked_at,
            "as_of": as_of,
            "first": first,
            "longest": longest,
        },
    )


async def failing(session: AsyncSession, last: int | None, before: str | None) -> list[SourceFailure]:
    """Assets for which the source failed the last time, by name: the ``last`` of those before an asset."""
    result = await session.execute(
        text(
            "SELECT * FROM (SELECT asset, failures, reason, asked_at, next_attempt_at FROM price_source_assets "
            'WHERE next_attempt_at IS NOT NULL AND (CAST(:before AS text) IS NULL OR asset < :before COLLATE "C") '
            "ORDER BY asset DESC LIMIT CAST(:last AS bigint)) newest ORDER BY asset"
        ),
        {"last": last, "before": before},
    )
    return [SourceFailure.model_validate(dict(row)) for row in result.mappings()]
