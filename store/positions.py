"""Positions, as engines report them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.closes import ReadClose, differing, read_close
from closeloop.models.positions import ClosedPosition, Position, PositionKey
from closeloop.store.books import not_archived
from closeloop.store.rows import as_json, execute, insertion, recordset
from closeloop.store.unreadable import CONTENT, KNOWN, Unreadable

_COLUMNS = (
    "book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, exit_price, size, realized_pnl, "
    "currency, risk, max_drawdown_pct, max_favorable_pct, regime_at_entry, exit_reason, conviction_id, conviction, "
    "signals, entry_context"
)
_WHERE_OURS = _COLUMNS.replace("opened_at", "CASE WHEN o.ours THEN opened_at END AS opened_at")
# PostgreSQL's instants reach further than a message's, to infinity.
_IMPOSSIBLE = (
    "closed_at < '1800-01-01Z' OR opened_at < '1800-01-01Z' OR opened_at >= '9999-12-31Z' OR closed_at = 'infinity'"
)
_LEARNS = not_archived("p.book_id")
# In what an open row and the close under its id must agree. Not in opened_at: an engine writes the row when it sends
# the order, and its close says when the order was filled. The id alone says that they are one trade.
_OPEN_AGREES_IN = ("symbol", "direction")
# What two exports of one trade may tell differently: it is still the same trade.
_OTHERWISE_DESCRIBED = frozenset(ClosedPosition.model_fields) - {
    *_OPEN_AGREES_IN,
    "opened_at",
    "closed_at",
    "entry_price",
    "exit_price",
    "realized_pnl",
}
# A row that an engine wrote at the open is replaced by the close; one that is closed is never overwritten.
_REPLACE_IF_OPEN = (
    "(book_id, position_id) DO UPDATE SET "
    + ", ".join(f"{c.strip()} = excluded.{c.strip()}" for c in _COLUMNS.split(",")[2:])
    + ", attributed = excluded.attributed WHERE positions.closed_at IS NULL AND "
    + " AND ".join(f"positions.{c} = excluded.{c}" for c in _OPEN_AGREES_IN)
)


@dataclass
class RecordedCloses:
    """What is on record for a batch of closes, by key.

    ``new``: stored by this call. ``taken``: were on record and are marked as attributed by this call. ``stored``: on
    record as sent, new or not. ``differing``: on record with other values in these fields.
    """

    new: set[PositionKey] = field(default_factory=set)
    taken: set[PositionKey] = field(default_factory=set)
    stored: dict[PositionKey, ClosedPosition] = field(default_factory=dict)
    differing: dict[PositionKey, list[str]] = field(default_factory=dict)


async def contradicted(session: AsyncSession, positions: Mapping[PositionKey, ClosedPosition]) -> set[PositionKey]:
    """Those of these closes that are on record with other content."""
    return {key for key, row in (await _load(session, list(positions))).items() if _differing(row, positions[key])}


async def record(
    session: AsyncSession, positions: Mapping[PositionKey, ClosedPosition], *, attributed: bool
) -> RecordedCloses:
    """Store closed positions (sorted by key), and create the books that do not exist.

    A position that is on record as closed is compared, never overwritten. ``attributed``: whether the positions that
    this call stores are marked as attributed, because the caller attributes them in the same transaction.
    """
    rows = await execute(
        session,
        store.books.creating({key.book for key in positions}),
        insertion(
            Position,
            [_row(position, attributed) for position in positions.values()],
            on_conflict=_REPLACE_IF_OPEN,
            returning="book_id, position_id",
        ),
    )
    recorded = RecordedCloses(new={PositionKey(r.book_id, r.position_id) for r in rows})
    recorded.stored = {key: position for key, position in positions.items() if key in recorded.new}
    others = {key: position for key, position in positions.items() if key not in recorded.new}
    for key, mapping in (await _load(session, list(others))).items():
        if differing := _differing(mapping, others[key]):
            recorded.differing[key] = differing
        else:
            recorded.stored[key] = others[key]
    if others:
        recorded.stored = {key: recorded.stored[key] for key in positions if key in recorded.stored}
    return recorded


def _differing(row: RowMapping, sent: ClosedPosition) -> list[str]:
    """Names of the fields in which a row on record differs from a close."""
    if row["impossible"]:
        return ["opened_at or closed_at, which no message could carry"]
    if row["closed_at"] is None:
        # An open row of the same symbol and side would have been replaced: this one differs.
        return [name for name in _OPEN_AGREES_IN if row[name] != getattr(sent, name)]
    stored = _read({name: value for name, value in row.items() if name != "impossible"})
    if stored.position is None:
        return [f"the row on record cannot be read ({stored.reason})"]
    return differing(stored.position, sent)


async def compare(
    session: AsyncSession, positions: Mapping[PositionKey, ClosedPosition]
) -> tuple[set[PositionKey], dict[PositionKey, list[str]]]:
    """Which of these closes are on record as the same trade, and which as another: in what fields they differ.

    Only what makes it that trade is compared: symbol, direction, times, prices and PnL.
    """
    same: set[PositionKey] = set()
    differing: dict[PositionKey, list[str]] = {}
    for key, row in (await _load(session, list(positions))).items():
        fields = [name for name in _differing(row, positions[key]) if name not in _OTHERWISE_DESCRIBED]
        if fields:
            differing[key] = fields
        else:
            same.add(key)
    return same, differing


async def take(session: AsyncSession, read: Mapping[PositionKey, str]) -> set[PositionKey]:
    """Mark closes on record as attributed: those that have no attribution and are as they were read (their digests).

    Their books are created where an engine that wrote the rows did not.
    """
    if not read:
        return set()
    await execute(session, store.books.creating({key.book for key in read}))
    result = await session.execute(
        text(
            "WITH held AS MATERIALIZED (SELECT h.book_id, h.position_id FROM (SELECT * FROM "  # noqa: S608
            "unnest(CAST(:books AS text[]), CAST(:ids AS text[]), CAST(:contents AS text[])) "
            "r (book_id, position_id, content) ORDER BY book_id, position_id) r CROSS JOIN LATERAL "
            # By its key alone: the planner takes closes without an attribution for few, and would read all each time.
            f"(SELECT p.*, {CONTENT} AS content FROM positions p "
            "WHERE (p.book_id, p.position_id) = (r.book_id, r.position_id) OFFSET 0 FOR UPDATE OF p) h "
            "WHERE NOT h.attributed AND h.closed_at IS NOT NULL AND h.content = r.content) "
            "UPDATE positions p SET attributed = true FROM held "
            "WHERE (p.book_id, p.position_id) = (held.book_id, held.position_id) RETURNING p.book_id, p.position_id"
        ),
        {
            "books": [key.book for key in read],
            "ids": [key.position_id for key in read],
            "contents": list(read.values()),
        },
    )
    return {PositionKey(row.book_id, row.position_id) for row in result}


async def mark_attributed(session: AsyncSession, keys: Sequence[PositionKey]) -> None:
    """Mark positions as attributed, so that the catch-up no longer finds them."""
    if not keys:
        return
    await session.execute(
        text(
            f"UPDATE positions p SET attributed = true FROM {recordset(Position)} r "  # noqa: S608
            # IS NOT TRUE: no index is of these alone, so that the key's is used (see take).
            "WHERE (p.book_id, p.position_id) = (r.book_id, r.position_id) AND p.attributed IS NOT TRUE"
        ),
        {"rows": as_json([_key_row(key) for key in keys])},
    )


Cursor = tuple[datetime, str, str]
"""A place in the order of (closed_at, book, position_id)."""


class UnattributedRow(NamedTuple):
    """A closed position on record: the close that it stands for, or why it stands for none.

    ``content`` is the digest of the row.
    """

    key: PositionKey
    content: str
    closed_at: datetime
    position: ClosedPosition | None
    reason: str


class UnattributedPage(NamedTuple):
    """Some of them; where the next page begins, None after the last one."""

    rows: list[UnattributedRow]
    after: Cursor | None


async def unattributed(session: AsyncSession, after: Cursor | None, limit: int) -> UnattributedPage:
    """Closed positions without an attribution, by (closed_at, book, position_id), from a place on.

    Those that are remembered as unreadable are left out, and those of archived books: a page may hold fewer than
    ``limit``, which says at how many is looked. So the index gives them in order, however many wait behind.
    """
    closed_at, book, position_id = after or (datetime(1800, 1, 1, tzinfo=UTC), "", "")
    result = await session.execute(
        text(
            f"SELECT {_WHERE_OURS}, {CONTENT} AS content, o.ours FROM (SELECT * FROM positions "  # noqa: S608
            "WHERE NOT attributed AND closed_at IS NOT NULL AND closed_at <= clock_timestamp() "
            "AND (closed_at, book_id, position_id) > "
            '(CAST(:closed_at AS timestamptz), CAST(:book AS text), CAST(:id AS text) COLLATE "C") '
            "ORDER BY closed_at, book_id, position_id LIMIT :limit) p "
            f"CROSS JOIN LATERAL (SELECT NOT ({_IMPOSSIBLE}) AND NOT {KNOWN} AND {_LEARNS} AS ours) o "
            "ORDER BY closed_at, book_id, position_id"
        ),
        {"closed_at": closed_at, "book": book, "id": position_id, "limit": limit},
    )
    rows, looked_at = [], 0
    for row in result.mappings():
        looked_at += 1
        after = row["closed_at"], row["book_id"], row["position_id"]
        if row["ours"]:
            key = PositionKey(row["book_id"], row["position_id"])
            read = _read({name: value for name, value in row.items() if name not in ("content", "ours")})
            rows.append(UnattributedRow(key, row["content"], row["closed_at"], read.position, read.reason))
    return UnattributedPage(rows, after if looked_at == limit else None)


async def impossible(session: AsyncSession, limit: int) -> list[Unreadable]:
    """Closed positions without an attribution whose times no message could carry, and that are not remembered yet."""
    result = await session.execute(
        text(
            f"SELECT book_id, position_id, {CONTENT} AS content FROM positions p "  # noqa: S608
            f"WHERE closed_at IS NOT NULL AND NOT attributed AND ({_IMPOSSIBLE}) AND NOT {KNOWN} AND {_LEARNS} "
            "LIMIT :limit"
        ),
        {"limit": limit},
    )
    reason = "opened_at, closed_at: must be times between the years 1800 and 9999"
    return [Unreadable(PositionKey(row.book_id, row.position_id), row.content, reason) for row in result]


async def oldest_unattributed(session: AsyncSession) -> datetime | None:
    """When the earliest close without an attribution closed; None if every close that can be read has one."""
    result = await session.execute(
        text(
            "SELECT closed_at FROM positions p WHERE closed_at <= clock_timestamp() AND NOT attributed "  # noqa: S608
            f"AND NOT ({_IMPOSSIBLE}) AND NOT {KNOWN} AND {_LEARNS} ORDER BY closed_at LIMIT 1"
        )
    )
    return result.scalar_one_or_none()


def _read(row: Mapping[str, Any]) -> ReadClose:
    """The message that a stored row stands for, if it is one: an engine may have written it."""
    values: dict[str, Any] = {name: value for name, value in row.items() if value is not None and name != "book_id"}
    conviction_id = values.pop("conviction_id", None)
    if "conviction" not in values and conviction_id is not None:
        values["conviction"] = {"conviction_id": conviction_id}
    return read_close(values | {"book": row["book_id"]})


async def _load(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, RowMapping]:
    if not keys:
        return {}
    result = await session.execute(
        text(
            "SELECT "  # noqa: S608
            + ", ".join(f"p.{c.strip()}" for c in _COLUMNS.split(",") if c.strip() not in ("opened_at", "closed_at"))
            + ", i.impossible, CASE WHEN NOT i.impossible THEN p.opened_at END AS opened_at"
            ", CASE WHEN NOT i.impossible THEN p.closed_at END AS closed_at"
            f" FROM positions p CROSS JOIN LATERAL (SELECT coalesce({_IMPOSSIBLE}, false) AS impossible) i"
            f" JOIN {recordset(Position)} r USING (book_id, position_id)"
        ),
        {"rows": as_json([_key_row(key) for key in keys])},
    )
    return {PositionKey(m["book_id"], m["position_id"]): m for m in result.mappings()}


def _key_row(key: PositionKey) -> dict[str, str]:
    return {"book_id": key.book, "position_id": key.position_id}


def _row(position: ClosedPosition, attributed: bool) -> dict[str, Any]:
    values = position.model_dump(exclude={"position_key", "noted"})
    values["position_id"] = position.key.position_id
    conviction = values["conviction"]
    values["book_id"] = values.pop("book")
    values["conviction_id"] = conviction and conviction["conviction_id"]
    values["attributed"] = attributed
    return values
