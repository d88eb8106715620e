"""Imports of candles, and what they prove: a hole in a file is a real gap unless a row of it was refused there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.store import locks
from closeloop.store.market import changes

LONGEST_GAP = timedelta(hours=24)
"""A longer hole says that the file was put together, not that nobody traded."""

Ranges = Sequence[tuple[datetime, datetime]]


@dataclass(frozen=True)
class ImportedSeries:
    """Which candles an import is about."""

    import_id: int
    asset: str
    interval_seconds: int


async def begin(
    session: AsyncSession, asset: str, interval_seconds: int, file_name: str | None, written_at: datetime | None
) -> ImportedSeries:
    """Record that an import begins; ``written_at`` is the file's own time."""
    result = await session.execute(
        text(
            "INSERT INTO price_imports (asset, interval_seconds, file_name, written_at) "
            "VALUES (:asset, :interval, :name, :written_at) RETURNING import_id"
        ),
        {"asset": asset, "interval": interval_seconds, "name": file_name, "written_at": written_at},
    )
    return ImportedSeries(result.scalar_one(), asset, interval_seconds)


async def finish(
    session: AsyncSession,
    series: ImportedSeries,
    counts: dict[str, int],
    span: tuple[datetime, datetime] | None,
    gaps: Ranges,
    refused: Ranges,
) -> None:
    """Record what an import did, the ``gaps`` between candles of its file, and where rows were ``refused``.

    A refusal counts until a candle is on record in its place. Locks the asset's gaps until the transaction ends.
    """
    await locks.prices_of(session, series.asset)
    of = {"asset": series.asset, "interval": series.interval_seconds, "import_id": series.import_id}
    first, last = span or (None, None)
    await session.execute(
        text(
            "UPDATE price_imports SET imported = :imported, already_recorded = :already_recorded, "
            "replaced = :replaced, rejected = :rejected, first_end = :first, last_end = :last "
            "WHERE import_id = :import_id"
        ),
        counts | {"import_id": series.import_id, "first": first, "last": last},
    )
    await session.execute(
        text(
            "DELETE FROM price_refusals r WHERE r.asset = :asset AND r.interval_seconds = :interval "
            "AND EXISTS (SELECT 1 FROM price_history p WHERE p.asset = r.asset "
            "AND p.interval_seconds = r.interval_seconds AND (p.ends_at > r.from_at AND p.ends_at < r.to_at "
            "OR p.ends_at = r.from_at AND r.from_at = r.to_at))"
        ),
        of,
    )
    await session.execute(
        text(
            "INSERT INTO price_refusals (asset, interval_seconds, from_at, to_at, import_id) "
            "SELECT DISTINCT :asset, CAST(:interval AS int), f, t, CAST(:import_id AS bigint) "
            "FROM unnest(CAST(:from_at AS timestamptz[]), CAST(:to_at AS timestamptz[])) AS r (f, t) "
            "ON CONFLICT DO NOTHING"
        ),
        of | _ranges(refused),
    )
    await _forget_gaps(session, of)
    await session.execute(
        text(
            "INSERT INTO price_gaps (asset, interval_seconds, from_at, to_at, import_id) "
            "SELECT :asset, CAST(:interval AS int), g.f, g.t, CAST(:import_id AS bigint) "
            "FROM unnest(CAST(:from_at AS timestamptz[]), CAST(:to_at AS timestamptz[])) AS g (f, t) "
            "WHERE NOT EXISTS (SELECT 1 FROM price_history p WHERE p.asset = :asset "
            "AND p.interval_seconds = :interval AND p.ends_at > g.f AND p.ends_at < g.t) "
            "AND NOT EXISTS (SELECT 1 FROM price_refusals r WHERE r.asset = :asset "
            "AND r.interval_seconds = :interval AND r.to_at > g.f AND r.from_at < g.t) "
            "ON CONFLICT (asset, interval_seconds, from_at) "
            "DO UPDATE SET to_at = excluded.to_at, import_id = excluded.import_id"
        ),
        of | _ranges(gaps),
    )
    await _finalise(session, of)


async def heed_fetched(session: AsyncSession, asset: str, interval_seconds: int) -> None:
    """After candles were fetched: a gap that one of them lies in is none, and what precedes them may be final."""
    await locks.prices_of(session, asset)
    of = {"asset": asset, "interval": interval_seconds}
    await _forget_gaps(session, of)
    await _finalise(session, of)


async def _forget_gaps(session: AsyncSession, of: dict[str, Any]) -> None:
    """Forget gaps in which there is a candle by now, or a row was refused."""
    await session.execute(
        text(
            "DELETE FROM price_gaps g WHERE g.asset = :asset AND g.interval_seconds = :interval AND ("
            "EXISTS (SELECT 1 FROM price_history p WHERE p.asset = g.asset "
            "AND p.interval_seconds = g.interval_seconds AND p.ends_at > g.from_at AND p.ends_at < g.to_at) "
            "OR EXISTS (SELECT 1 FROM price_refusals r WHERE r.asset = g.asset "
            "AND r.interval_seconds = g.interval_seconds AND r.to_at > g.from_at AND r.from_at < g.to_at))"
        ),
        of,
    )


async def _finalise(session: AsyncSession, of: dict[str, Any]) -> None:
    """A candle of which nobody knows whether it was whole is final once a later one is there.

    One whose file was written before it ended was not whole: only a file, or the source, that has it whole replaces it.
    """
    final = await session.execute(
        text(
            "UPDATE price_history p SET provisional = false FROM price_imports i "
            "WHERE p.asset = :asset AND p.interval_seconds = :interval AND p.provisional "
            "AND i.import_id = p.import_id AND i.written_at IS NULL AND EXISTS (SELECT 1 FROM price_history l "
            "WHERE l.asset = p.asset AND l.interval_seconds = p.interval_seconds AND l.ends_at > p.ends_at) "
            "RETURNING p.asset, p.interval_seconds, p.ends_at"
        ),
        of,
    )
    await changes.candles_changed(session, final)


def _ranges(ranges: Ranges) -> dict[str, list[datetime]]:
    return {"from_at": [start for start, _ in ranges], "to_at": [end for _, end in ranges]}
