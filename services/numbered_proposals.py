"""Subjects whose proposals are numbered within their book (store/numbered.py): what all of them do alike."""

from abc import ABC, abstractmethod
from datetime import datetime

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.approvals import ApprovalKey, ApprovalState, ApprovalVerdict, ApprovalView, Decision
from closeloop.models.launches import Launch
from closeloop.services.approvals import ApprovalEvents, DecisionEffect, approval_launch, outcome_of
from closeloop.store.approvals import WaitingPage
from closeloop.store.numbered import NumberedProposals

_MAX_NUMBER = 2**31 - 1  # the largest of PostgreSQL's integer


class NumberedSubject(ABC):
    """A subject (services/approvals.py) of a book, of which at most one proposal waits."""

    events = ApprovalEvents()

    @property
    @abstractmethod
    def kind(self) -> str:
        """See Subject."""

    @property
    @abstractmethod
    def proposals(self) -> NumberedProposals:
        """Where they are stored."""

    @abstractmethod
    def sentence(self, row: RowMapping) -> str:
        """What is proposed."""

    @abstractmethod
    async def carry_out(self, session: AsyncSession, found: ApprovalView, decision: Decision) -> DecisionEffect:
        """Change what was approved, in the session's transaction."""

    @property
    @abstractmethod
    def unchanged(self) -> str:
        """What an operator is told where it is rejected or expires."""

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """See Subject. Locks the book, as does whoever takes back what was approved."""
        await store.books.hold(session, key.book)

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """See Subject."""
        if not (key.id.isascii() and key.id.isdecimal() and int(key.id) <= _MAX_NUMBER):
            return None
        row = await self.proposals.find(session, key.book, int(key.id))
        return None if row is None else self.view(row)

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """See Subject."""
        return [self.view(row) for row in await self.proposals.waiting(session, page)]

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """See Subject. It may be approved whenever an operator wants."""
        return None

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """See Subject."""
        approved = decision is not None and decision.verdict is ApprovalVerdict.approve
        other = ApprovalState.expired if decision is None else ApprovalState.rejected
        state = ApprovalState.approved if approved else other
        await self.proposals.settle(session, found.book, int(found.id), state, decision, at=found.deadline)
        if decision is None or not approved:
            return DecisionEffect(self.unchanged)
        return await self.carry_out(session, found, decision)

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """See Subject."""
        state = ApprovalState.withdrawn
        await self.proposals.settle(session, found.book, int(found.id), state, None, note=reason, at=at)

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """See Subject."""
        return approval_launch(found)

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """See Subject. None: it ends with the decision."""
        return []

    def view(self, row: RowMapping) -> ApprovalView:
        """A proposal as it is shown."""
        decision = None
        if row["verdict"] is not None:
            decision = Decision(
                verdict=ApprovalVerdict(row["verdict"]),
                operator=row["operator"],
                note=row["note"] or "",
                at=row["decided_at"],
            )
        state = ApprovalState(row["state"])
        return ApprovalView(
            kind=self.kind,
            book=row["book"],
            id=str(row["number"]),
            proposal=self.sentence(row)[:2000],
            deadline=row["deadline"],
            state=state,
            decision=decision,
            outcome=f"withdrawn: {row['note']}" if state is ApprovalState.withdrawn else outcome_of(state, decision),
        )
