"""Levers that were given to engines."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.given_levers import GivenLevers
from closeloop.store.rows import execute, insertion


async def record(session: AsyncSession, row: Mapping[str, Any]) -> RowMapping:
    """Put levers on record, unless they are: the row that was there first stays. Returns the one on record."""
    await execute(session, insertion(GivenLevers, [row], on_conflict="(levers_id) DO NOTHING"))
    return (await load(session, [row["levers_id"]]))[row["levers_id"]]


async def load(session: AsyncSession, ids: Collection[str]) -> dict[str, RowMapping]:
    """These levers, by id; one that is not on record is left out."""
    if not ids:
        return {}
    result = await session.execute(
        text("SELECT * FROM market_levers WHERE levers_id = ANY(CAST(:ids AS text[]))"), {"ids": sorted(ids)}
    )
    return {row["levers_id"]: row for row in result.mappings()}
