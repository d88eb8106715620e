"""The workflow of a proposal that waits for an operator, until it is approved, rejected, expired or withdrawn."""

from datetime import datetime

from temporalio import workflow

from closeloop.workflows.decisions import Deciding, Word, who_said
from closeloop.workflows.messages import expect

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.approvals import (
        ApprovalAnswer,
        ApprovalContinuation,
        ApprovalKey,
        ApprovalRequest,
        ApprovalState,
        ApprovalVerdict,
    )


@workflow.defn(name="ApprovalWorkflow")
class ApprovalWorkflow(Deciding):
    """Wait for an operator up to the deadline; the decision is carried out in the transaction that records it.

    Where two operators decide at once, or one at the deadline, or while the proposal is withdrawn, the transaction that
    locks the proposal first decides, and the other is answered why not.
    """

    verdicts = ApprovalVerdict

    def __init__(self) -> None:
        super().__init__()
        self._request: ApprovalRequest | None = None
        self._state = ApprovalState.pending
        self._sentence = ""

    @workflow.run
    async def run(self, message: ApprovalRequest | None = None) -> ApprovalState:
        """See the class."""
        self._request = request = expect(message, ApprovalRequest)
        if request.continued is None:
            self._enter(ApprovalState.pending, request.proposal)
        else:
            self._take_over(request.continued)
            self._enter(request.continued.state, request.continued.sentence)
        self._begun_by_0_1 = not workflow.patched("reminder")
        self._may_go_on, self._history_events = workflow.patched("inbox"), request.history_events
        if workflow.patched("record-decides"):
            await self._look()  # started again after the run before it ended, perhaps decided meanwhile
        await self._read_inbox()
        if not self._begun_by_0_1:
            answer = await self._wait_for_decision(request.deadline)
        elif not await self._decided_within(request.deadline - workflow.now()):
            answer = await self._expire()
        else:
            answer = None
        if answer is not None and answer.state != self._state:
            decided = answer.operator is not None  # on record, before the deadline; only nobody told this workflow
            said = f"{answer.operator} had decided" if decided else "nobody decided"
            self._enter(answer.state, f"{said}: {answer.reason}")
        await self._all_heard()
        return self._state

    @workflow.query
    def state(self) -> ApprovalState:
        """The state of the proposal, as far as this workflow knows."""
        return self._state

    async def _hear(self, word: Word) -> ApprovalAnswer:
        async with self._one_at_a_time:
            answer = await self._decide(word)
            if answer.state != self._state:
                self._enter(answer.state, f"{who_said(word, answer)}: {answer.reason}")
        if answer.accepted:
            self._publish_decision(word, answer)
        return answer

    async def _look(self) -> None:
        async with self._one_at_a_time:
            state = await self._transaction(ApprovalActivities.standing, self._key(), "What does the record say?")
            if state != self._state:
                self._enter(state, "the record changed elsewhere")

    def _asks_when_signalled(self) -> bool:
        return workflow.patched("time-of-word")  # 0.1 took the time at which a worker received the signal

    # -- where it stands -----------------------------------------------------------------------------------------------

    def _has_begun(self) -> bool:
        return self._request is not None

    def _begun(self) -> ApprovalRequest:
        assert self._request is not None, "it has begun"
        return self._request

    def _key(self) -> ApprovalKey:
        return ApprovalKey(kind=self._begun().kind, book=self._begun().book, id=self._begun().id)

    def _deadline(self) -> datetime | None:
        return self._begun().deadline

    def _waits(self) -> bool:
        return self._state is ApprovalState.pending

    def _standing(self) -> ApprovalState:
        return self._state

    def _next_run(self) -> ApprovalRequest:
        continued = ApprovalContinuation(**self._continuation(self._sentence), state=self._state)
        return self._begun().model_copy(update={"continued": continued})

    def _enter(self, state: ApprovalState, sentence: str) -> None:
        self._state, self._sentence = state, sentence
        request = self._begun()
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set(request.kind), sa.BOOK.value_set(request.book), sa.CYCLE_STATE.value_set(state)]
        )
        workflow.upsert_memo({"outcome": sentence})
        details = f"**{request.workflow_id}: {state}**\n\n{sentence}"
        if state == ApprovalState.pending:
            details += (
                f"\n\nWaits until {request.deadline:%Y-%m-%d %H:%M} UTC "
                'for a signal `approve` or `reject` with `{"operator": "...", "note": "..."}`.'
            )
        workflow.set_current_details(details)
