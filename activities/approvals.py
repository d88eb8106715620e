"""Where something that waits for an operator plugs in: what an approval changes, and where its state stands.

A subject is given to :class:`ApprovalActivities` in ``workers/wiring.py``. Its own table holds the state, and what an
approval changes is changed in the transaction that records the decision.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

from closeloop import store
from closeloop.activities.transactions import transaction
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalRequest,
    ApprovalState,
    ApprovalVerdict,
    RecordApproval,
    RefusedApproval,
)
from closeloop.models.events import EventType
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.search_attributes import BOOK, LIFECYCLE
from closeloop.models.sentences import short
from closeloop.store.database import Sessions

OUTCOMES = {
    ApprovalVerdict.approve: (ApprovalState.approved, EventType.approval_approved),
    ApprovalVerdict.reject: (ApprovalState.rejected, EventType.approval_rejected),
    None: (ApprovalState.expired, EventType.approval_expired),
}


class Subject(Protocol):
    """Something that an operator decides on."""

    @property
    def kind(self) -> str:
        """Stands in workflow ids and histories: never rename a subject."""
        ...

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> RecordApproval | ApprovalState | None:
        """Lock it. ``pending``, or the decision that stands, or the state that nobody decided; None: it is unknown."""
        ...

    async def settle(self, session: AsyncSession, decision: RecordApproval, state: ApprovalState) -> str:
        """Carry the decision out, in the session's transaction; says what it changed."""
        ...


class ApprovalActivities:
    """Decides on what waits, exactly once, and keeps the trail."""

    def __init__(self, sessions: Sessions, subjects: Sequence[Subject]) -> None:
        self._sessions = sessions
        self._subjects = {subject.kind: subject for subject in subjects}

    @activity.defn(name="decide_approval")
    async def decide(self, decision: RecordApproval) -> ApprovalAnswer:
        """Carry out an operator's word (or the deadline), or say why not. It is on record; a retry answers the same."""
        async with transaction(self._sessions) as session:
            subject, found = await self._hold(session, decision)
            if isinstance(found, RecordApproval):
                state = OUTCOMES[found.verdict][0]
                if found == decision:
                    return ApprovalAnswer(accepted=True, state=state, reason="this very word was carried out")
                by = (
                    f" by {found.operator} at {found.at:%Y-%m-%d %H:%M:%S} UTC"
                    if found.operator
                    else ", nobody decided"
                )
                reason = f"already decided: {state}{by}"
            elif found is not ApprovalState.pending:
                state, reason = found, f"too late: {found}"
            elif decision.verdict is not None and not decision.operator.strip():
                state, reason = ApprovalState.pending, "operator: must not be empty"
            else:
                state, event = OUTCOMES[decision.verdict]
                changed = await subject.settle(session, decision, state)
                await _tell(session, event, decision.workflow_id, _word(decision) | {"outcome": changed})
                return ApprovalAnswer(accepted=True, state=state, reason=changed)
            if decision.verdict is not None:
                about = f"{decision.workflow_id}/{decision.verdict}/{decision.operator}/{decision.at.isoformat()}"
                await _tell(session, EventType.approval_word_refused, about, _word(decision) | {"outcome": reason})
            return ApprovalAnswer(accepted=False, state=state, reason=reason)

    @activity.defn(name="standing_of_approval")
    async def standing(self, key: ApprovalKey) -> ApprovalState:
        """Where it stands on record."""
        async with transaction(self._sessions) as session:
            _, found = await self._hold(session, key)
        return OUTCOMES[found.verdict][0] if isinstance(found, RecordApproval) else found

    @activity.defn(name="refuse_approval_word")
    async def refuse_word(self, word: RefusedApproval) -> None:
        """Put a word on record that could not be understood."""
        async with transaction(self._sessions) as session:
            about = f"{word.workflow_id}/{word.run_id}/{word.number}/not-understood"
            await _tell(session, EventType.approval_word_refused, about, word.model_dump(mode="json"))

    async def _hold(self, session: AsyncSession, key: ApprovalKey) -> tuple[Subject, RecordApproval | ApprovalState]:
        subject = self._subjects.get(key.kind)
        only_key = ApprovalKey(kind=key.kind, book=key.book, id=key.id)
        found = await subject.hold(session, only_key) if subject else None
        if subject is None or found is None:
            raise ApplicationError(f"there is no {key.workflow_id}", type="ApprovalUnknown", non_retryable=True)
        return subject, found


async def ask(client: Client, request: ApprovalRequest) -> bool:
    """Start the workflow that waits for an operator; False if it was started before."""
    try:
        await client.start_workflow(
            "ApprovalWorkflow",
            request,
            id=request.workflow_id,
            task_queue=TASK_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            static_summary=short(request.proposal),
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(LIFECYCLE, request.kind), SearchAttributePair(BOOK, request.book)]
            ),
        )
    except WorkflowAlreadyStartedError:
        return False
    return True


def _word(decision: RecordApproval) -> dict[str, Any]:
    return decision.model_dump(mode="json")


async def _tell(session: AsyncSession, kind: EventType, about: str, payload: dict[str, Any]) -> None:
    await store.events.append(session, (kind, about, payload))
