"""Positions, as engines report them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

import store.books
from models.positions import ClosedPosition, Position, PositionKey
from models.refusals import describe
from store.rows import as_json, execute, insertion, recordset

_COLUMNS = (
    "book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, exit_price, size, realized_pnl, "
    "risk, max_drawdown_pct, max_favorable_pct, regime_at_entry, exit_reason, conviction_id, conviction, signals, "
    "entry_context"
)
_OF_THE_CLOSE = ("closed_at", "entry_price", "exit_price", "size", "realized_pnl")
_IF_GIVEN = (
    "risk",
    "max_drawdown_pct",
    "max_favorable_pct",
    "regime_at_entry",
    "exit_reason",
    "conviction_id",
    "conviction",
    "entry_context",
)
# A row that an engine wrote at the open is completed by the close; one that is closed is never overwritten.
_COMPLETE_IF_OPEN = (
    "(book_id, position_id) DO UPDATE SET "
    + ", ".join(f"{c} = excluded.{c}" for c in _OF_THE_CLOSE)
    + ", "
    + ", ".join(f"{c} = COALESCE(excluded.{c}, positions.{c})" for c in _IF_GIVEN)
    + ", attributed = true"
    ", signals = CASE WHEN excluded.signals = '[]' THEN positions.signals ELSE excluded.signals END"
    " WHERE positions.closed_at IS NULL AND (positions.symbol, positions.direction, positions.opened_at)"
    " = (excluded.symbol, excluded.direction, excluded.opened_at)"
)


@dataclass
class Recorded:
    """What is on record for a batch of closes, by key."""

    new: set[PositionKey] = field(default_factory=set)
    stored: dict[PositionKey, ClosedPosition] = field(default_factory=dict)
    differing: dict[PositionKey, list[str]] = field(default_factory=dict)


async def record(session: AsyncSession, positions: Sequence[ClosedPosition]) -> Recorded:
    """Store closed positions (distinct keys, sorted by key) and meet their books.

    Positions that are on record already are compared, never overwritten.

    What this call stores is marked as attributed: the caller attributes it in the same transaction.
    """
    rows = await execute(
        session,
        store.books.meeting({p.book for p in positions}),
        insertion(
            Position,
            [_row(p) | {"attributed": True} for p in positions],
            on_conflict=_COMPLETE_IF_OPEN,
            returning="book_id, position_id, (xmax = 0) AS fresh",
        ),
    )
    fresh = {PositionKey(r.book_id, r.position_id): r.fresh for r in rows}
    recorded = Recorded(new={key for key, is_fresh in fresh.items() if is_fresh})
    recorded.stored = {p.key: p for p in positions if p.key in recorded.new}
    others = {p.key: p for p in positions if p.key not in recorded.new}
    for key, mapping in (await _load(session, list(others))).items():
        sent = others[key]
        try:
            stored = closed_position(mapping)
        except ValidationError as error:
            recorded.differing[key] = [f"the row on record cannot be read ({describe(error)})"]
            continue
        if key not in fresh and (differing := _differing_fields(stored, sent)):
            recorded.differing[key] = differing
        else:
            recorded.stored[key] = stored
    return recorded


async def mark_attributed(session: AsyncSession, keys: Sequence[PositionKey]) -> None:
    """Take positions off the list that the catch-up reads."""
    if not keys:
        return
    await session.execute(
        text(
            f"UPDATE positions p SET attributed = true FROM {recordset(Position)} r "  # noqa: S608
            "WHERE (p.book_id, p.position_id) = (r.book_id, r.position_id) AND NOT p.attributed"
        ),
        {"rows": as_json([_key_row(key) for key in keys])},
    )


async def unattributed(
    session: AsyncSession, after: tuple[datetime, str, str] | None, limit: int
) -> Sequence[RowMapping]:
    """Closed positions without an attribution, oldest first, after the given (closed_at, book_id, position_id)."""
    result = await session.execute(
        text(
            f"SELECT {_COLUMNS} FROM positions WHERE NOT attributed "  # noqa: S608
            "AND closed_at <= clock_timestamp() AND (CAST(:closed_at AS timestamptz) IS NULL "
            "OR (closed_at, book_id, position_id) > "
            '(CAST(:closed_at AS timestamptz), CAST(:book AS text), CAST(:id AS text) COLLATE "C")) '
            "ORDER BY closed_at, book_id, position_id LIMIT :limit"
        ),
        {
            "closed_at": after[0] if after else None,
            "book": after[1] if after else None,
            "id": after[2] if after else None,
            "limit": limit,
        },
    )
    return result.mappings().all()


async def oldest_unattributed(session: AsyncSession) -> datetime | None:
    """When the longest-waiting unattributed close happened."""
    result = await session.execute(
        text(
            "SELECT closed_at FROM positions WHERE closed_at IS NOT NULL AND NOT attributed ORDER BY closed_at LIMIT 1"
        )
    )
    return result.scalar_one_or_none()


def closed_position(row: RowMapping) -> ClosedPosition:
    """The message that a stored row stands for. Raises ValidationError where an engine's own row is not one."""
    values: dict[str, Any] = {name: value for name, value in row.items() if value is not None and name != "book_id"}
    conviction_id = values.pop("conviction_id", None)
    if "conviction" not in values and conviction_id is not None:
        values["conviction"] = {"conviction_id": conviction_id}
    return ClosedPosition.model_validate(values | {"book": row["book_id"]})


async def _load(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, RowMapping]:
    if not keys:
        return {}
    result = await session.execute(
        text(
            "SELECT "  # noqa: S608
            + ", ".join(f"p.{c.strip()}" for c in _COLUMNS.split(","))
            + f" FROM positions p JOIN {recordset(Position)} r USING (book_id, position_id)"
        ),
        {"rows": as_json([_key_row(key) for key in keys])},
    )
    return {PositionKey(m["book_id"], m["position_id"]): m for m in result.mappings()}


def _key_row(key: PositionKey) -> dict[str, str]:
    return {"book_id": key.book, "position_id": key.position_id}


def _row(position: ClosedPosition) -> dict[str, Any]:
    values = position.model_dump(mode="python")
    conviction = values["conviction"]
    values["book_id"] = values.pop("book")
    values["conviction_id"] = conviction and conviction["conviction_id"]
    return values


def _differing_fields(stored: ClosedPosition, sent: ClosedPosition) -> list[str]:
    return [name for name in ClosedPosition.model_fields if getattr(stored, name) != getattr(sent, name)]
