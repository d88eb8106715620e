"""What an operator decides on an override that would move size by more than the policy allows without asking."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.approvals import (
    ApprovalKey,
    ApprovalState,
    ApprovalVerdict,
    ApprovalView,
    Decision,
)
from closeloop.models.launches import Launch
from closeloop.models.overrides import OverrideStatus, OverrideView
from closeloop.models.sentences import short
from closeloop.services.approvals import ApprovalEvents, DecisionEffect, approval_launch, outcome_of
from closeloop.store.approvals import WaitingPage

OVERRIDE = "override"
_EXPIRED = "expired"  # stored as an override's verdict where the deadline passed and nobody decided
_STATES = {
    ApprovalVerdict.approve: ApprovalState.approved,
    ApprovalVerdict.reject: ApprovalState.rejected,
}


def override_key(book: str, override_id: str) -> ApprovalKey:
    """An override as something that waits for an operator."""
    return ApprovalKey(kind=OVERRIDE, book=book, id=override_id)


class OverrideProposal:
    """An override that waits for an operator, as a subject (services/approvals.py)."""

    kind = OVERRIDE
    events = ApprovalEvents()

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """See Subject. Takes the book's lock of lessons, as does the activity that materializes overrides."""
        await store.lessons.hold(session, key.book)

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """See Subject."""
        override = await store.overrides.find(session, key.id)
        return None if override is None or override.book != key.book else _view(override)

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """See Subject."""
        views = [_view(override) for override in await store.overrides.waiting(session, page)]
        return [view for view in views if view is not None]

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """See Subject. None: an override whose lesson is no longer actionable was withdrawn, and does not wait."""
        return None

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """See Subject."""
        if decision is None:
            status, sentence = OverrideStatus.ended, "nobody decided before the deadline"
        elif decision.verdict is ApprovalVerdict.approve:
            status, sentence = OverrideStatus.active, "the override is in force"
        else:
            status, sentence = OverrideStatus.rejected, "the override stays out of force"
        at = decision.at if decision else found.deadline
        values = {
            "status": status,
            "reason": None if status is OverrideStatus.active else sentence,
            "verdict": decision.verdict if decision else _EXPIRED,
            "decided_by": decision.operator if decision else None,
            "decided_at": at,
            "note": (decision.note if decision else None) or None,
            "ended_at": None if status is OverrideStatus.active else at,
        }
        await store.overrides.decide(session, found.id, values)
        return DecisionEffect(sentence)

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """See Subject."""
        await store.overrides.end(session, {found.id: reason}, at)

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """See Subject."""
        return approval_launch(found)

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """See Subject. None: it ends with the decision."""
        return []


def _view(override: OverrideView) -> ApprovalView | None:
    # 0.1 did not record it: of what has ended since, nobody can tell whether an operator was asked.
    deadline = override.deadline or override.ended_at
    if deadline is None:
        return None  # its change of size is below the policy's limit: it needed no approval
    decision = None
    if override.verdict in set(ApprovalVerdict) and override.decided_by is not None and override.decided_at is not None:
        decision = Decision(
            verdict=ApprovalVerdict(override.verdict),
            operator=override.decided_by,
            note=override.note or "",
            at=override.decided_at,
        )
    state, outcome = _standing(override, decision)
    where = ", ".join(f"{d}={v}" for d, v in override.scope.items())
    proposal = (
        f"{override.book}: size x {override.size_multiplier:.3g} for {override.pattern_key} "
        f"({override.action_category}) where {where}; lesson {override.lesson_id} v{override.lesson_version}"
    )
    return ApprovalView(
        **override_key(override.book, override.override_id).model_dump(),
        proposal=short(proposal, 1_900),
        deadline=deadline,
        state=state,
        decision=decision,
        outcome=outcome,
    )


def _standing(override: OverrideView, decision: Decision | None) -> tuple[ApprovalState, str | None]:
    if override.status is OverrideStatus.pending:
        return ApprovalState.pending, None
    if decision is not None:
        state = _STATES[decision.verdict]
        sentence = outcome_of(state, decision)
        return (
            state,
            f"{sentence}, ended since: {override.reason}" if override.status is OverrideStatus.ended else sentence,
        )
    if override.verdict == _EXPIRED:
        return ApprovalState.expired, outcome_of(ApprovalState.expired, None)
    return ApprovalState.withdrawn, f"withdrawn: {override.reason}"
