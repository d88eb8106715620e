"""A book's weight cycle: propose with evidence, wait for a person, apply, watch, undo."""

from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

from closeloop.workflows.decisions import Deciding, scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import A_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.weights import WeightActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.sentences import moved_weights, short
    from closeloop.models.weights import (
        BooksDue,
        CycleKey,
        CycleRequest,
        CycleState,
        DecisionAnswer,
        DispatchReport,
        OpenCycle,
        OpenedCycle,
        OverlayReport,
        RecordDecision,
        RefusedWord,
        SignalTimeRequest,
        Verdict,
    )

POLICY_ITSELF = "policy"


@workflow.defn(name="WeightAdjustmentWorkflow")
class WeightAdjustmentWorkflow(Deciding):
    """One cycle of one book.

    1. *Evaluate* the cycle that ended and *propose* new weights, or record why none (one transaction). The cycle before
       ends here: its watch is over, a proposal that still waits has expired.
    2. *Wait* for an operator up to the deadline, with a reminder half-way.
    3. *Apply* in one transaction; the overlay file follows.
    4. *Watch* until the next cycle begins: an operator may revert at any time.

    The database decides every race: a decision is carried out in the transaction that looks at the cycle's state.
    """

    verdicts = Verdict

    def __init__(self) -> None:
        super().__init__()
        self._cycle: OpenedCycle | None = None
        self._state: CycleState | None = None
        self._over = False
        self._overlay_due = False

    @workflow.run
    async def run(self, message: CycleRequest | None = None) -> OpenedCycle:
        """See the class."""
        request = expect(message, CycleRequest)
        cycle = await self._open(request)
        if cycle.workflow_id != workflow.info().workflow_id:
            return cycle  # the same cycle, started under another id: that workflow carries it on
        await self._end_predecessor(cycle)
        if cycle.self_approved:
            await self._decide(Verdict.approve, POLICY_ITSELF, "every changed domain is statistically supported")
        if self._state == CycleState.proposed:
            await self._wait_for_decision(cycle)
        await self._watch(cycle)
        await workflow.wait_condition(workflow.all_handlers_finished)
        assert self._state is not None, "the cycle was opened"
        return cycle.model_copy(update={"state": self._state})

    async def _open(self, request: CycleRequest) -> OpenedCycle:
        info = workflow.info()
        try:
            cycle = await workflow.execute_activity_method(
                WeightActivities.open_cycle,
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

    async def _end_predecessor(self, cycle: OpenedCycle) -> None:
        if cycle.predecessor and cycle.predecessor != cycle.workflow_id:
            try:
                await workflow.get_external_workflow_handle(cycle.predecessor).signal("look")
            except ApplicationError:
                workflow.logger.info("the cycle before has ended already")

    async def _wait_for_decision(self, cycle: OpenedCycle) -> None:
        assert cycle.deadline is not None, "a proposal has a deadline"
        if not await self._decided_within((cycle.deadline - workflow.now()) / 2):
            await workflow.execute_activity_method(
                WeightActivities.remind,
                self._key(),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary=f"Remind: the proposal for {cycle.book} waits for an operator",
            )
            if not await self._decided_within(cycle.deadline - workflow.now()):
                await self._expire()

    async def _decided_within(self, wait: timedelta) -> bool:
        def decided() -> bool:
            return self._over or self._state != CycleState.proposed

        try:
            await workflow.wait_condition(decided, timeout=max(wait, timedelta(0)))
        except TimeoutError:
            return False
        return True

    async def _expire(self) -> None:
        # Words that reached the server in time are carried out first, even if no worker ran until now.
        await workflow.wait_condition(workflow.all_handlers_finished)
        async with self._one_at_a_time:
            state = await workflow.execute_activity_method(
                WeightActivities.expire,
                self._key(),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary="The deadline has passed",
            )
            if state != self._state:
                self._enter(state, "nobody decided before the deadline: nothing changes")

    async def _watch(self, cycle: OpenedCycle) -> None:
        """While the cycle's weights are in force; and the overlay file follows every change."""
        while True:
            if self._overlay_due:
                self._overlay_due = False
                await workflow.execute_activity_method(
                    WeightActivities.write_overlay,
                    self._key(),
                    start_to_close_timeout=A_TRANSACTION,
                    retry_policy=UNTIL_DONE,
                    summary=f"Overlay file of {cycle.book}",
                )
            if self._over or self._state != CycleState.applied:
                if not self._overlay_due:
                    return
                continue
            await workflow.wait_condition(lambda: self._overlay_due or self._over or self._state != CycleState.applied)

    # -- what operators say --------------------------------------------------------------------------------------

    def _has_begun(self) -> bool:
        return self._cycle is not None

    @workflow.query
    def cycle(self) -> dict[str, Any]:
        """The cycle's state and proposal."""
        if self._cycle is None:
            return {"state": None, "proposal": None}
        return {"state": self._state, "proposal": self._cycle.model_dump(mode="json")}

    async def _look(self) -> None:
        """The record changed elsewhere: the next cycle has begun, or the overlay file was deleted."""
        async with self._one_at_a_time:
            standing = await workflow.execute_activity_method(
                WeightActivities.standing,
                self._key(),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary="What does the record say?",
            )
            self._over = self._over or standing.next_has_begun
            if standing.state != self._state:
                because = "the next cycle has begun" if standing.next_has_begun else "the overlay file was deleted"
                self._enter(standing.state, because)

    async def _decide(self, verdict: str, operator: str, note: str, signal: int | None = None) -> DecisionAnswer:
        async with self._one_at_a_time:
            at = await self._spoken_at(Verdict(verdict), signal)
            answer = await workflow.execute_activity_method(
                WeightActivities.decide,
                RecordDecision(
                    **self._key().model_dump(), verdict=Verdict(verdict), operator=operator, note=note, at=at
                ),
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary=short(f"{operator or 'somebody'} says {verdict}"),
            )
            if answer.accepted:
                self._overlay_due = answer.state in (CycleState.applied, CycleState.reverted)
                workflow.upsert_search_attributes(
                    [sa.DECISION.value_set(verdict), sa.OPERATOR.value_set(short(operator, 200))]
                )
                self._enter(
                    answer.state, f"{operator} said {verdict}: {answer.reason}" + (f" ({note})" if note else "")
                )
            return answer

    async def _spoken_at(self, verdict: Verdict, signal: int | None) -> datetime:
        """When the operator spoke: now, unless the deadline has passed and a signal may have waited for a worker."""
        cycle = self._cycle
        now = workflow.now()
        if signal is None or cycle is None or cycle.deadline is None or now < cycle.deadline:
            return now
        info = workflow.info()
        reached = await workflow.execute_activity_method(
            WeightActivities.when_signalled,
            SignalTimeRequest(workflow_id=info.workflow_id, run_id=info.run_id, name=verdict, number=signal),
            start_to_close_timeout=A_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary="When did this word reach the server?",
        )
        return reached or now

    async def _not_understood(self, signal: str, reason: str) -> DecisionAnswer:
        number = self._words["not understood"]
        self._words["not understood"] += 1
        await workflow.execute_activity_method(
            WeightActivities.refuse_word,
            RefusedWord(
                **self._key().model_dump(),
                run_id=workflow.info().run_id,
                signal=short(signal, 200),
                number=number,
                reason=short(reason, 1_000),
            ),
            start_to_close_timeout=A_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary=short(f"A {signal} that could not be understood"),
        )
        assert self._state is not None, "the cycle was opened"
        return DecisionAnswer(accepted=False, state=self._state, reason=reason)

    # -- what others see -----------------------------------------------------------------------------------------

    def _key(self) -> CycleKey:
        assert self._cycle is not None, "the cycle was opened"
        return CycleKey(cycle_id=self._cycle.cycle_id, book=self._cycle.book)

    def _enter(self, state: CycleState, sentence: str) -> None:
        self._state = state
        cycle = self._cycle
        assert cycle is not None, "the cycle was opened"
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set("weights"), sa.BOOK.value_set(cycle.book), sa.CYCLE_STATE.value_set(state)]
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
        """See the class. The cycles' ``as_of`` is the time for which this run was scheduled."""
        as_of = scheduled_time()
        report = DispatchReport()
        for due in await workflow.execute_activity_method(
            WeightActivities.books_due,
            BooksDue(as_of=as_of),
            start_to_close_timeout=A_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary="Which cycle is each book in?",
        ):
            try:
                await workflow.start_child_workflow(
                    WeightAdjustmentWorkflow.run,
                    CycleRequest(book=due.book, as_of=as_of),
                    id=f"weights/{due.cycle_id}",
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    static_summary=f"Weights of {due.book}, cycle {due.cycle_id}",
                    search_attributes=TypedSearchAttributes(
                        [SearchAttributePair(sa.LIFECYCLE, "weights"), SearchAttributePair(sa.BOOK, due.book)]
                    ),
                )
            except WorkflowAlreadyStartedError:
                continue
            report.started.append(due.cycle_id)
        workflow.upsert_memo({"outcome": f"started {', '.join(report.started) or 'no cycle: all were'}"[:2000]})
        return report


@workflow.defn(name="OverlayWatchWorkflow")
class OverlayWatchWorkflow:
    """Repair overlay files that are due; take a deleted one for what it is, an operator's revert."""

    @workflow.run
    async def run(self) -> OverlayReport:
        """See the class."""
        report = await workflow.execute_activity_method(
            WeightActivities.check_overlays,
            start_to_close_timeout=timedelta(minutes=2),
            retry_policy=UNTIL_DONE,
            summary="Are the overlay files as they were written?",
        )
        for key in report.deleted:
            await workflow.execute_activity_method(
                WeightActivities.revert_deleted_overlay,
                key,
                start_to_close_timeout=A_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary=f"The overlay file of {key.book} was deleted: revert",
            )
        if report.deleted or report.repaired:
            told = [f"{k.book}: deleted, reverted" for k in report.deleted] + [f"{b}: written" for b in report.repaired]
            workflow.upsert_memo({"outcome": "; ".join(told)[:2000]})
        return report
