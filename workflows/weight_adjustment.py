"""A book's weight cycle: propose with evidence, wait for a person, apply, watch, undo."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

from closeloop.workflows import weights_0_1
from closeloop.workflows.books import reporting, sentences_of
from closeloop.workflows.decisions import Deciding, Word, scheduled_time, start_what_waits, who_said
from closeloop.workflows.due_work import by_hand
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import FIVE_ATTEMPTS, LONGEST_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.activities.overlays import OverlayActivities
    from closeloop.activities.weight_cycles import WeightCycleActivities
    from closeloop.activities.weight_decisions import WeightDecisionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalState, RecordApproval
    from closeloop.models.launches import weight_cycle
    from closeloop.models.sentences import moved_weights
    from closeloop.models.weights import (
        WEIGHTS,
        CurrentCycle,
        CurrentCyclesRequest,
        CycleContinuation,
        CycleKey,
        CycleRequest,
        CycleStanding,
        CycleState,
        DispatchReport,
        OpenCycle,
        OpenedCycle,
        OverlayReport,
        RecordRevert,
        WeightsVerdict,
    )
    from closeloop.services.operator_decisions import POLICY_ITSELF

# A run starts at most 5,000 cycles: its history holds three events of each, and Temporal ends one with 51,200.
DUE_PAGE = 500
DUE_PAGES_A_RUN = 10
_VERDICTS = {
    WeightsVerdict.approve: CycleState.applied,
    WeightsVerdict.reject: CycleState.rejected,
    WeightsVerdict.revert: CycleState.reverted,
}
_CYCLE_STATES = {
    ApprovalState.approved: CycleState.applied,
    ApprovalState.rejected: CycleState.rejected,
    ApprovalState.expired: CycleState.expired,
    ApprovalState.withdrawn: CycleState.expired,
}
_APPROVAL_STATES = {
    CycleState.proposed: ApprovalState.pending,
    CycleState.applied: ApprovalState.approved,
    CycleState.reverted: ApprovalState.approved,
    CycleState.rejected: ApprovalState.rejected,
    CycleState.expired: ApprovalState.expired,
}


@workflow.defn(name="WeightAdjustmentWorkflow")
class WeightAdjustmentWorkflow(Deciding):
    """One cycle of one book.

    1. *Evaluate* the cycle that ended and *propose* new weights, or record why none (one transaction). The cycle before
       ends here: its watch is over, a proposal that still waits has expired.
    2. *Wait* for an operator up to the deadline, with a reminder half-way, as everything that waits (decisions.py).
    3. *Apply* in one transaction; the overlay file follows.
    4. *Watch* until the next cycle begins: an operator may revert at any time.

    A decision is carried out in the transaction that reads the cycle's state: of two at once, the second is refused.
    """

    verdicts = WeightsVerdict

    def __init__(self) -> None:
        super().__init__()
        self._cycle: OpenedCycle | None = None
        self._state: CycleState | None = None
        self._over = False
        self._overlay_due = False
        self._request: CycleRequest | None = None
        self._sentence = ""

    @workflow.run
    async def run(self, message: CycleRequest | None = None) -> OpenedCycle:
        """See the class."""
        self._begun_by_0_1 = not workflow.patched("one-decision")
        request = expect(message, CycleRequest)
        self._may_go_on, self._history_events = workflow.patched("inbox"), request.history_events
        self._request, continued = request, request.continued
        cycle = await self._open(request) if continued is None else self._go_on(continued)
        await self._read_inbox()
        if cycle.workflow_id != workflow.info().workflow_id:
            # The same cycle, started under another id: that workflow carries it on. A word that came here is decided.
            await self._all_heard()
            return cycle
        if continued is None:
            await self._end_predecessor(cycle)
        if cycle.self_approved and continued is None:
            why = "by the statistically supported domains alone"
            word = Word(WeightsVerdict.approve, POLICY_ITSELF, why, workflow.now(), record=cycle.self_approval)
            await self._hear(word)
        if self._state == CycleState.proposed:
            assert cycle.deadline is not None, "a proposal has a deadline"
            answer = await self._wait_for_decision(cycle.deadline)
            if answer is not None and answer.state is not ApprovalState.pending and self._waits():
                self._enter_at_deadline(answer)
        await self._watch(cycle)
        await self._all_heard()
        assert self._state is not None, "the cycle was opened"
        return cycle.model_copy(update={"state": self._state})

    def _enter_at_deadline(self, answer: ApprovalAnswer) -> None:
        if answer.operator is None:
            return self._enter(_CYCLE_STATES[answer.state], "nobody decided before the deadline: nothing changes")
        # A decision was on record before the deadline, and only nobody had told this workflow.
        self._overlay_due = answer.state is ApprovalState.approved
        return self._enter(_CYCLE_STATES[answer.state], f"{answer.operator} had decided: {answer.reason}")

    async def _open(self, request: CycleRequest) -> OpenedCycle:
        info = workflow.info()
        try:
            cycle = await workflow.execute_activity_method(
                WeightCycleActivities.open_cycle,
                OpenCycle(
                    book=request.book,
                    as_of=request.as_of or workflow.now(),
                    deadline=request.deadline,
                    workflow_id=info.workflow_id,
                ),
                start_to_close_timeout=timedelta(minutes=5),
                retry_policy=UNTIL_DONE,
                summary=f"Evaluate and propose weights of {request.book}",
            )
        except ActivityError as error:
            raise error.cause or error from None
        self._cycle = cycle
        self._overlay_due = cycle.state == CycleState.preset_restored
        self._enter(cycle.state, cycle.sentence)
        return cycle

    def _go_on(self, before: CycleContinuation) -> OpenedCycle:
        """Go on where the run before this one ended."""
        self._take_over(before)
        self._cycle = before.cycle
        self._over, self._overlay_due = before.over, before.overlay_due
        self._enter(before.state, before.sentence)
        return before.cycle

    def _next_run(self) -> CycleRequest:
        assert self._request is not None, "it has begun"
        assert self._state is not None, "the cycle was opened"
        continued = CycleContinuation(
            **self._continuation(self._sentence),
            cycle=self._opened(),
            state=self._state,
            over=self._over,
            overlay_due=self._overlay_due,
        )
        return self._request.model_copy(update={"continued": continued})

    async def _end_predecessor(self, cycle: OpenedCycle) -> None:
        if cycle.predecessor and cycle.predecessor != cycle.workflow_id:
            try:
                await workflow.get_external_workflow_handle(cycle.predecessor).signal("look")
            except ApplicationError:
                workflow.logger.info("the cycle before has ended already")

    async def _watch(self, cycle: OpenedCycle) -> None:
        """Wait while the cycle's weights are in force, and bring the overlay file up to date after every change."""
        while True:
            if self._overlay_due:
                self._overlay_due = False
                await self._transaction(
                    OverlayActivities.write_overlay, self._cycle_key(), f"Overlay file of {cycle.book}"
                )
            if self._over or self._state != CycleState.applied:
                if not self._overlay_due:
                    return
                continue
            if self._history_is_long():
                await self._go_on_in_a_new_run()
            await workflow.wait_condition(
                lambda: self._overlay_due or self._over or self._state != CycleState.applied or self._history_is_long()
            )

    @workflow.query
    def cycle(self) -> dict[str, Any]:
        """The cycle's state and proposal."""
        if self._cycle is None:
            return {"state": None, "proposal": None}
        return {"state": self._state, "proposal": self._cycle.model_dump(mode="json")}

    # -- what operators say --------------------------------------------------------------------------------------------

    async def _hear(self, word: Word) -> ApprovalAnswer:
        if self._opened().new is None and not self._begun_by_0_1:
            reason = f"nothing to decide: the cycle is {self._state}"
            return await self._not_understood(word.verdict, reason, word.operator, word.said_in)
        async with self._one_at_a_time:
            if self._begun_by_0_1:
                word = replace(word, heard_at=workflow.now())
            answer = await (self._revert if word.verdict == WeightsVerdict.revert else self._decide)(word)
            if answer.accepted:
                state = _VERDICTS[WeightsVerdict(word.verdict)]
                self._overlay_due = state in (CycleState.applied, CycleState.reverted)
                self._publish_decision(word, answer)
                self._enter(state, f"{who_said(word, answer)}: {answer.reason}")
            return answer

    async def _revert(self, word: Word) -> ApprovalAnswer:
        """Undo what was applied, until the next cycle begins."""
        at = await self._reached_server_at(word)
        record = RecordRevert(
            **self._key().model_dump(),
            operator=word.operator,
            note=word.note,
            at=at,
            record=word.record,
            said_in=word.said_in,
        )
        answer: ApprovalAnswer = await self._transaction(WeightDecisionActivities.revert, record, word.sentence)
        return answer

    async def _look(self) -> None:
        """Take over the state on record: the next cycle has begun, or the overlay file was deleted."""
        async with self._one_at_a_time:
            standing: CycleStanding = await self._transaction(
                WeightCycleActivities.standing, self._cycle_key(), "What does the record say?"
            )
            self._over = self._over or standing.next_has_begun
            if standing.state != self._state:
                elsewhere = "the overlay file was deleted, or the book removed"
                because = "the next cycle has begun" if standing.next_has_begun else elsewhere
                self._enter(standing.state, because)

    async def _expire(self) -> ApprovalAnswer | None:
        if self._begun_by_0_1:
            return await self._expire_as_0_1()
        return await super()._expire()

    async def _expire_as_0_1(self) -> ApprovalAnswer | None:
        """Expire as the histories of 0.1 have it: ask the database also where a decision has just been carried out."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        async with self._one_at_a_time:
            record = RecordApproval(**self._key().model_dump(), verdict=None, at=workflow.now())
            answer: ApprovalAnswer = await self._transaction(
                ApprovalActivities.decide, record, "The deadline has passed"
            )
            return answer

    async def _transaction(self, activity: Callable[..., Any], message: Any, summary: str) -> Any:
        if self._begun_by_0_1:
            return await weights_0_1.transaction(activity, message, summary)
        return await super()._transaction(activity, message, summary)

    # -- where it stands -----------------------------------------------------------------------------------------------

    def _has_begun(self) -> bool:
        return self._cycle is not None

    def _opened(self) -> OpenedCycle:
        assert self._cycle is not None, "the cycle was opened"
        return self._cycle

    def _key(self) -> ApprovalKey:
        return self._cycle_key().approval

    def _cycle_key(self) -> CycleKey:
        return CycleKey(cycle_id=self._opened().cycle_id, book=self._opened().book)

    def _deadline(self) -> datetime | None:
        return self._opened().deadline

    def _waits(self) -> bool:
        return not self._over and self._state == CycleState.proposed

    def _standing(self) -> ApprovalState:
        assert self._state is not None, "the cycle was opened"
        return _APPROVAL_STATES.get(self._state, ApprovalState.withdrawn)

    def _enter(self, state: CycleState, sentence: str) -> None:
        self._state, self._sentence = state, sentence
        cycle = self._opened()
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set(WEIGHTS), sa.BOOK.value_set(cycle.book), sa.CYCLE_STATE.value_set(state)]
        )
        workflow.upsert_memo({"outcome": sentence})
        details = f"**{cycle.cycle_id}: {state}**\n\n{sentence}"
        if state == CycleState.proposed and cycle.new is not None:
            details += (
                f"\n\nProposed: {moved_weights(cycle.old, cycle.new)}"
                f"\n\nWaits until {cycle.deadline:%Y-%m-%d %H:%M} UTC "
                'for a signal `approve` or `reject` with `{"operator": "...", "note": "..."}`.'
            )
        workflow.set_current_details(details)


@workflow.defn(name="WeightDispatchWorkflow")
class WeightDispatchWorkflow:
    """Start the cycle that each book is in, by its cadence, unless it has been started."""

    @workflow.run
    async def run(self) -> DispatchReport:
        """See the class. The database says as of when each cycle is due: the beginning of its period."""
        as_of = scheduled_time()
        report = DispatchReport()
        async for due in self._due(as_of):
            request = CycleRequest(book=due.book, as_of=due.as_of or as_of)
            launch = weight_cycle(request, due.cycle_id)
            try:
                await workflow.start_child_workflow(
                    WeightAdjustmentWorkflow.run,
                    request,
                    id=launch.id,
                    id_reuse_policy=launch.reuse,
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    static_summary=launch.summary,
                    search_attributes=launch.attributes,
                )
            except WorkflowAlreadyStartedError:
                continue
            report.started.append(due.cycle_id)
        if workflow.patched("what-waits"):
            await start_what_waits()
        workflow.upsert_memo({"outcome": f"started {', '.join(report.started) or 'no cycle: all were'}"[:2000]})
        return report

    async def _due(self, as_of: datetime) -> AsyncIterator[CurrentCycle]:
        """The cycles that are not on record yet, page by page: what a run leaves, the next one finds due."""
        limit = DUE_PAGE if workflow.patched("due-by-the-page") else None
        after = None
        for _ in range(DUE_PAGES_A_RUN):
            page = await workflow.execute_activity_method(
                WeightCycleActivities.books_due,
                CurrentCyclesRequest(as_of=as_of, by_hand=by_hand(), after=after, limit=limit),
                start_to_close_timeout=LONGEST_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary="Which cycle is each book in?",
            )
            for due in page:
                yield due
            if limit is None or len(page) < limit:
                return
            after = page[-1].book


@workflow.defn(name="OverlayWatchWorkflow")
class OverlayWatchWorkflow:
    """Write overlay files that are due; a file that was deleted is an operator's revert to the preset.

    Also starts again what listens to operators and was ended in Temporal.
    """

    @workflow.run
    async def run(self) -> OverlayReport:
        """See the class."""
        report = await workflow.execute_activity_method(
            OverlayActivities.check_overlays,
            start_to_close_timeout=timedelta(minutes=2),
            retry_policy=UNTIL_DONE,
            summary="Are the overlay files as they were written?",
        )
        if len(report.deleted) > 1 and workflow.patched("each-overlay-on-its-own"):
            await asyncio.gather(*(self._revert(key, report) for key in report.deleted))
        else:
            for key in report.deleted:
                await self._revert(key, report)
        if workflow.patched("what-waits"):
            await start_what_waits()
        if report.deleted or report.repaired or report.failed:
            sentences = [f"{k.book}: deleted, reverted" for k in report.deleted if k.book not in report.failed]
            sentences += [f"{b}: written" for b in report.repaired] + sentences_of(report.failed)
            workflow.upsert_memo({"outcome": "; ".join(sentences)[:2000]})
        return report

    async def _revert(self, key: CycleKey, report: OverlayReport) -> None:
        with reporting(key.book, report.failed, asked_for=False):
            await workflow.execute_activity(
                "revert_deleted_overlay",  # by its name: nobody reads what it answers, which 0.1 worded otherwise
                key,
                start_to_close_timeout=LONGEST_TRANSACTION,
                retry_policy=FIVE_ATTEMPTS,  # the next look is five minutes away
                summary=f"The overlay file of {key.book} was deleted: revert",
            )
