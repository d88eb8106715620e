"""Closes that name the levers they were opened with: what these said of the market is put beside the close."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.contexts import LEVERS_ID, completed, differences
from closeloop.models.closes import MOST_NOTES
from closeloop.models.market_contexts import ContextSource, FoundContext
from closeloop.models.positions import ClosedPosition, NotedField, PositionKey
from closeloop.models.values import utc_text

FIELD = f"entry_context.{LEVERS_ID}"


async def take_levers(
    session: AsyncSession,
    positions: Mapping[PositionKey, ClosedPosition],
    written: Collection[PositionKey],
    by: str,
) -> dict[PositionKey, list[NotedField]]:
    """Put on record what the levers said that these attributed closes name; returns what has to be told, by key.

    Only of closes in ``written``, which the caller's transaction attributes: one that was attributed before keeps what
    it was learned with. Levers that are not of the book, or were for a time after the opening, are not used.
    """
    named = {key: position for key in sorted(positions) if _named(position := positions[key]) is not None}
    if not named:
        return {}
    levers = await store.given_levers.load(session, {i for p in named.values() if isinstance(i := _named(p), str)})
    before = await store.market_contexts.of(session, [key for key in named if key not in written])
    rows: list[dict[str, Any]] = []
    notes: dict[PositionKey, list[NotedField]] = {}
    for key, position in named.items():
        given = levers.get(str(_named(position)))
        if (reason := _unusable(position, given)) is not None:
            notes[key] = [NotedField(field=FIELD, reason=reason)]
            continue
        assert given is not None, "it can be used"
        if key not in written and key not in before:
            reason = "these levers were not on record when the close was attributed"
            notes[key] = [NotedField(field=FIELD, reason=reason)]
            continue
        found = FoundContext(ContextSource.levers, given["states"], given["a_value"], given["e_value"])
        if told := differences(position.entry_context, found):
            notes[key] = [NotedField(field=f"entry_context.{f}", reason=r) for f, r in told[:MOST_NOTES]]
        rows.append(_row(key, position, given) | {"filled_by": by})
    await store.market_contexts.add(session, [row for row in rows if _key(row) in written])
    return notes


async def contexts_of(session: AsyncSession, positions: Sequence[ClosedPosition]) -> dict[PositionKey, Any]:
    """The entry contexts of these attributed closes, with what the record adds to them, by key.

    Of several closes of one position the first counts.
    """
    contexts = {position.key: position.entry_context for position in reversed(positions)}
    named = sorted({position.key for position in positions if _named(position) is not None})
    found = await store.market_contexts.found(session, named)
    return contexts | {key: completed(contexts[key], record) for key, record in found.items()}


def _named(position: ClosedPosition) -> Any:
    return None if position.entry_context is None else position.entry_context.get(LEVERS_ID)


def _unusable(position: ClosedPosition, given: RowMapping | None) -> str | None:
    if not isinstance(_named(position), str):
        return "must be a text"
    if given is None or given["book_id"] != position.book:
        return f"no such levers are on record of book {position.book}"
    if given["as_of"] > position.opened_at:
        return f"these levers are for {utc_text(given['as_of'])}, after the position was opened: they are not used"
    return None


def _row(key: PositionKey, position: ClosedPosition, given: RowMapping) -> dict[str, Any]:
    return {
        "book_id": key.book,
        "position_id": key.position_id,
        "source": ContextSource.levers,
        "levers_id": given["levers_id"],
        "as_of": given["as_of"],
        "known_then": given["known_then"] and given["given_at"] <= position.opened_at,
        "states": given["states"],
        "a_value": given["a_value"],
        "e_value": given["e_value"],
        "policy_hash": given["policy_hash"],
    }


def _key(row: Mapping[str, Any]) -> PositionKey:
    return PositionKey(row["book_id"], row["position_id"])
