"""Factors of the market's drivers in a book's levers, and proposals to change them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market_drivers import DriverFactors, DriverProposal
from closeloop.store.approvals import WaitingPage, waiting_page
from closeloop.store.rows import execute, insertion

_PROPOSALS = (
    "SELECT book_id AS book, number, state, before, factors, counted, evidence, proposed_at, deadline, verdict, "
    "operator, note, decided_at, policy_hash FROM driver_proposals "
)


async def in_force(session: AsyncSession, book: str, at: datetime | None = None) -> RowMapping | None:
    """The factors of a book that were in force at an instant (None: the newest); None where nobody decided by then."""
    result = await session.execute(
        text(
            "SELECT version, factors, since, operator, note, proposal FROM driver_factors WHERE book_id = :book "
            "AND (CAST(:at AS timestamptz) IS NULL OR since <= :at) ORDER BY version DESC LIMIT 1"
        ),
        {"book": book, "at": at},
    )
    return result.mappings().first()


async def put_in_force(
    session: AsyncSession, book: str, factors: Mapping[str, float], operator: str, note: str, proposal: int | None
) -> None:
    """A new version of a book's factors, in force from this moment on. The caller holds the book."""
    found = await in_force(session, book)
    # Never before the version that it follows: a clock that was set back must not put them in another order.
    since = await session.execute(
        text("SELECT greatest(clock_timestamp(), CAST(:least AS timestamptz))"),
        {"least": None if found is None else found["since"]},
    )
    row = {
        "book_id": book,
        "version": 1 if found is None else found["version"] + 1,
        "factors": dict(factors),
        "since": since.scalar_one(),
        "operator": operator,
        "note": note,
        "proposal": proposal,
    }
    await execute(session, insertion(DriverFactors, [row]))


async def propose(session: AsyncSession, row: Mapping[str, Any]) -> int:
    """Store a proposal under the book's next number, and return it. The caller holds the book, and none waits."""
    number = await session.execute(
        text("SELECT coalesce(max(number), 0) + 1 FROM driver_proposals WHERE book_id = :book"),
        {"book": row["book_id"]},
    )
    made: int = number.scalar_one()
    await execute(session, insertion(DriverProposal, [dict(row) | {"number": made}]))
    return made


async def newest(session: AsyncSession, book: str) -> RowMapping | None:
    """The newest proposal of a book, waiting or decided."""
    query = text(_PROPOSALS + "WHERE book_id = :book ORDER BY number DESC LIMIT 1")
    return (await session.execute(query, {"book": book})).mappings().first()


async def proposal(session: AsyncSession, book: str, number: int) -> RowMapping | None:
    """A proposal of a book."""
    query = text(_PROPOSALS + "WHERE book_id = :book AND number = :number")
    return (await session.execute(query, {"book": book, "number": number})).mappings().first()


async def waiting(session: AsyncSession, page: WaitingPage) -> list[RowMapping]:
    """Proposals that wait for an operator, the soonest deadline first."""
    name = "'drivers/' || p.book || '/' || p.number"
    result = await session.execute(waiting_page(_PROPOSALS + "WHERE state = 'pending'", name), page.values)
    return list(result.mappings())


async def settle(session: AsyncSession, book: str, number: int, values: Mapping[str, Any]) -> None:
    """Store what became of a proposal: state, verdict, operator, note, decided_at. The caller holds the book."""
    await session.execute(
        text(
            "UPDATE driver_proposals SET state = :state, verdict = :verdict, operator = :operator, note = :note, "
            "decided_at = :decided_at WHERE book_id = :book AND number = :number"
        ),
        {"book": book, "number": number, **values},
    )
