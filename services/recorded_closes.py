"""Recording closes, whatever brings them: which of them can be on record as they were sent, and which cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.closes import differing
from closeloop.models.positions import (
    BOOK_ARCHIVED,
    CURRENCY_CONFLICT,
    POSITION_CONFLICT,
    POSITION_REFUSED,
    ClosedPosition,
    PositionKey,
)
from closeloop.services.books import archived_sentence
from closeloop.store.positions import RecordedCloses

CLOCK_TOLERANCE = timedelta(minutes=5)  # by which the clock of an engine or operator may be ahead of a worker's


@dataclass(frozen=True)
class RefusedClose:
    """A close that can never be attributed as it was sent."""

    kind: str
    reason: str


async def record_closes(
    session: AsyncSession,
    positions: Sequence[ClosedPosition],
    now: datetime,
    *,
    attributed: bool,
    read: Mapping[PositionKey, str] | None = None,
) -> tuple[dict[int, RefusedClose], RecordedCloses]:
    """Record closes in the caller's transaction; the refused ones by their place, and what is on record.

    ``attributed``: whether the caller attributes them in the same transaction; what it does not, a workflow does. Of
    several closes of one position the first one sent stays. A refused close stores nothing. ``read``: digests of the
    rows that closes were read from; where a row is still as it was, it is what its close says, and is not compared.
    """
    keys = [position.key for position in positions]
    refused = {i: r for i, p in enumerate(positions) if (r := _refuse(p, now)) is not None}
    first: dict[PositionKey, ClosedPosition] = {}
    for i, (key, position) in enumerate(zip(keys, positions, strict=True)):
        if i in refused or (earlier := first.setdefault(key, position)) is position:
            continue
        if earlier != position and (fields := differing(earlier, position)):
            refused[i] = conflict(fields)
        elif earlier.currency is None and position.currency is not None:
            first[key] = position  # the same close, and it says more

    # Every transaction takes its locks in this order, each sorted by key, so that none waits for another in a circle.
    archived = await _archived(session, first)
    for key in archived:
        del first[key]
    refused |= {i: archived[key] for i, key in enumerate(keys) if key in archived and i not in refused}
    currency = await _currencies(session, first)
    for key, position in list(first.items()):
        if position.currency is not None and (book_has := currency[key.book]) not in (None, position.currency):
            del first[key]
            reason = _other_currency(position, book_has)
            refused |= {i: reason for i, k in enumerate(keys) if k == key and i not in refused}
    closes = {key: first[key] for key in sorted(first)}
    taken = await store.positions.take(session, {key: read[key] for key in closes if key in read}) if read else set()
    others = {key: close for key, close in closes.items() if key not in taken}
    recorded = await store.positions.record(session, others, attributed=attributed) if others else RecordedCloses()
    if taken:
        recorded.taken = taken
        recorded.stored = {key: closes[key] for key in closes if key in taken or key in recorded.stored}
    return refused, recorded


def _refuse(position: ClosedPosition, now: datetime) -> RefusedClose | None:
    if position.closed_at > now + CLOCK_TOLERANCE:
        return RefusedClose(
            POSITION_REFUSED, "closed_at: must not be in the future (beyond 5 minutes of clock difference)"
        )
    return None


async def _archived(
    session: AsyncSession, closes: Mapping[PositionKey, ClosedPosition]
) -> dict[PositionKey, RefusedClose]:
    """Which closes a removed book refuses: all that it had not attributed before, so that a retry is answered alike."""
    found = await store.books.archived(session, {key.book for key in closes})
    if not found:
        return {}
    of_archived = [key for key in closes if key.book in found]
    before = await store.attributions.load(session, of_archived)
    return {
        key: RefusedClose(BOOK_ARCHIVED, f"book: {archived_sentence(found[key.book])}")
        for key in of_archived
        if key not in before
    }


async def _currencies(session: AsyncSession, closes: Mapping[PositionKey, ClosedPosition]) -> dict[str, str | None]:
    """The currency of each book in which a close states one: the book's, or else the first that is stated here."""
    stating = {key: close for key, close in closes.items() if close.currency is not None}
    if not stating:
        return {}
    books = {key.book for key in closes}
    known = await store.books.currencies(session, books)
    new = {key: close for key, close in stating.items() if known.get(key.book) is None}
    if new:
        # A close that is refused for its content gives no book its currency.
        contradicted = await store.positions.contradicted(session, new)
        claims: dict[str, str | None] = {book: None for book in books if book not in known}
        for key, close in new.items():
            if key not in contradicted and claims.get(key.book) is None:
                claims[key.book] = close.currency
        await store.books.state_currencies(session, claims)
        known = await store.books.currencies(session, books)
    return known


def _other_currency(position: ClosedPosition, currency: str | None) -> RefusedClose:
    return RefusedClose(
        CURRENCY_CONFLICT,
        f"currency: {position.currency}, and the money of book {position.book} is in {currency}: sums of the two would "
        "say nothing; send this position to a book of its own",
    )


def conflict(fields: Sequence[str]) -> RefusedClose:
    """Why a close is refused that is on record with other content."""
    reason = f"this position is on record with other content; differing: {', '.join(fields)}"
    if {"opened_at", "closed_at"} <= set(fields):  # another trade, not other news of the same one
        reason += '; an engine that uses its ids again needs position_key "id+opened_at" (or --position-key)'
    return RefusedClose(POSITION_CONFLICT, reason)
