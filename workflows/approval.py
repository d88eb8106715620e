"""Something waits for an operator: approved, rejected, expired or withdrawn."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.decisions import Deciding
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import A_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.approvals import (
        ApprovalAnswer,
        ApprovalKey,
        ApprovalRequest,
        ApprovalState,
        ApprovalVerdict,
        RecordApproval,
        RefusedApproval,
    )
    from closeloop.models.sentences import short


@workflow.defn(name="ApprovalWorkflow")
class ApprovalWorkflow(Deciding):
    """Wait for an operator up to the deadline; the decision is carried out in the transaction that records it.

    The database decides every race: two operators, an operator and the deadline, a withdrawal meanwhile.
    """

    verdicts = ApprovalVerdict

    def __init__(self) -> None:
        super().__init__()
        self._request: ApprovalRequest | None = None
        self._state = ApprovalState.pending

    @workflow.run
    async def run(self, message: ApprovalRequest | None = None) -> ApprovalState:
        """See the class."""
        self._request = request = expect(message, ApprovalRequest)
        self._enter(ApprovalState.pending, request.proposal)
        wait = max(request.deadline - workflow.now(), timedelta(0))
        try:
            await workflow.wait_condition(lambda: self._state != ApprovalState.pending, timeout=wait)
        except TimeoutError:
            # Words that reached the server in time are carried out first, even if no worker ran until now.
            await workflow.wait_condition(workflow.all_handlers_finished)
            if self._state == ApprovalState.pending:
                await self._settle(None)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._state

    @workflow.query
    def state(self) -> ApprovalState:
        """Where it stands."""
        return self._state

    def _has_begun(self) -> bool:
        return self._request is not None

    async def _decide(self, verdict: str, operator: str, note: str, signal: int | None = None) -> ApprovalAnswer:
        answer = await self._settle(ApprovalVerdict(verdict), operator, note)
        if answer.accepted:
            workflow.upsert_search_attributes(
                [sa.DECISION.value_set(verdict), sa.OPERATOR.value_set(short(operator, 200))]
            )
        return answer

    async def _settle(self, verdict: ApprovalVerdict | None, operator: str = "", note: str = "") -> ApprovalAnswer:
        async with self._one_at_a_time:
            answer = await workflow.execute_activity_method(
                ApprovalActivities.decide,
                RecordApproval(
                    **self._key().model_dump(), verdict=verdict, operator=operator, note=note, at=workflow.now()
                ),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary=short(f"{operator or 'somebody'} says {verdict}" if verdict else "The deadline has passed"),
            )
            said = f"{operator} said {verdict}" + (f" ({note})" if note else "") if verdict else "nobody decided"
            if answer.state != self._state:
                self._enter(answer.state, f"{said}: {answer.reason}")
            return answer

    async def _look(self) -> None:
        async with self._one_at_a_time:
            state = await workflow.execute_activity_method(
                ApprovalActivities.standing,
                self._key(),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary="What does the record say?",
            )
            if state != self._state:
                self._enter(state, "the record changed elsewhere")

    async def _not_understood(self, name: str, reason: str) -> ApprovalAnswer:
        number = self._words["not understood"]
        self._words["not understood"] += 1
        await workflow.execute_activity_method(
            ApprovalActivities.refuse_word,
            RefusedApproval(
                **self._key().model_dump(),
                run_id=workflow.info().run_id,
                number=number,
                word=short(name, 200),
                reason=short(reason, 1_000),
            ),
            start_to_close_timeout=A_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary=short(f"A {name} that could not be understood"),
        )
        return ApprovalAnswer(accepted=False, state=self._state, reason=reason)

    def _key(self) -> ApprovalKey:
        assert self._request is not None, "it has begun"
        return ApprovalKey(kind=self._request.kind, book=self._request.book, id=self._request.id)

    def _enter(self, state: ApprovalState, sentence: str) -> None:
        self._state = state
        request = self._request
        assert request is not None, "it has begun"
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
