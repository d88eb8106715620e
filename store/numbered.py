"""Proposals that are numbered within their book, of which at most one waits for an operator.

Each subject has a table of its own with the same columns: ``meta_proposals``, ``driver_proposals``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from closeloop.models.approvals import ApprovalState, Decision
from closeloop.store.approvals import WaitingPage, waiting_page
from closeloop.store.rows import execute, insertion

_COLUMNS = (
    "book_id AS book, number, state, evidence, proposed_at, deadline, verdict, operator, note, decided_at, policy_hash"
)


class NumberedProposals:
    """The proposals of the subject ``kind``, rows of ``model``. Whoever writes holds the book."""

    def __init__(self, kind: str, model: type[SQLModel]) -> None:
        # Both stand in the code and never come from outside: they are part of the statements.
        self._kind, self._model, self._table = kind, model, str(model.__tablename__)
        self._select = f"SELECT {_COLUMNS} FROM {self._table} "  # noqa: S608

    async def propose(self, session: AsyncSession, row: Mapping[str, Any]) -> RowMapping:
        """Store a proposal under the book's next number, unless one waits; returns the one that waits now."""
        book = row["book_id"]
        if pending := await self.pending(session, book):
            return pending[0]
        query = f"SELECT coalesce(max(number), 0) + 1 FROM {self._table} WHERE book_id = :book"  # noqa: S608
        number = (await session.execute(text(query), {"book": book})).scalar_one()
        await execute(session, insertion(self._model, [{"state": ApprovalState.pending} | dict(row, number=number)]))
        return (await self.pending(session, book))[0]

    async def pending(self, session: AsyncSession, book: str) -> Sequence[RowMapping]:
        """The proposal of a book that waits, if one does."""
        query = text(self._select + "WHERE book_id = :book AND state = 'pending'")
        return (await session.execute(query, {"book": book})).mappings().all()

    async def newest(self, session: AsyncSession, book: str) -> RowMapping | None:
        """The newest proposal of a book, waiting or not."""
        query = text(self._select + "WHERE book_id = :book ORDER BY number DESC LIMIT 1")
        return (await session.execute(query, {"book": book})).mappings().first()

    async def find(self, session: AsyncSession, book: str, number: int) -> RowMapping | None:
        """A proposal by its number."""
        query = text(self._select + "WHERE book_id = :book AND number = :number")
        return (await session.execute(query, {"book": book, "number": number})).mappings().first()

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> Sequence[RowMapping]:
        """Those that wait for an operator, the soonest deadline first."""
        name = f"'{self._kind}/' || p.book || '/' || p.number"
        result = await session.execute(waiting_page(self._select + "WHERE state = 'pending'", name), page.values)
        return result.mappings().all()

    async def settle(
        self,
        session: AsyncSession,
        book: str,
        number: int,
        state: ApprovalState,
        decision: Decision | None,
        *,
        note: str = "",
        at: datetime,
    ) -> None:
        """Store what became of a proposal: the decision, or where nobody decided (None) why and when."""
        query = (
            f"UPDATE {self._table} SET state = :state, verdict = :verdict, operator = :operator, note = :note, "  # noqa: S608
            "decided_at = :at WHERE book_id = :book AND number = :number"
        )
        values = {
            "book": book,
            "number": number,
            "state": state,
            "verdict": decision.verdict if decision else None,
            "operator": decision.operator if decision else "",
            "note": decision.note if decision else note,
            "at": decision.at if decision else at,
        }
        await session.execute(text(query), values)
