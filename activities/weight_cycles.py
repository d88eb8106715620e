"""Activities of a weight cycle: evaluate what the weights in force came to, and propose new ones or say why not."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import known_book, on_record
from closeloop.activities.transactions import transaction
from closeloop.learning.guard import guard_reading
from closeloop.learning.overfitting import CyclePerformance, CycleTrade, cycle_performance, degradation_streak
from closeloop.learning.proposals import evidence_of, propose, side_of
from closeloop.learning.weights import DomainCorrelation, InfeasibleBounds, preset_weights
from closeloop.models.books import BookView
from closeloop.models.bounded import first_names
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.sentences import moved_weights
from closeloop.models.weights import (
    ActiveWeights,
    CurrentCycle,
    CurrentCyclesRequest,
    CycleKey,
    CycleRecord,
    CycleStanding,
    CycleState,
    DomainEvidence,
    OpenCycle,
    OpenedCycle,
    Preset,
    VersionCause,
    Weights,
)
from closeloop.services import periods
from closeloop.services.operator_decisions import record_by_policy
from closeloop.services.recorded_closes import CLOCK_TOLERANCE
from closeloop.services.weight_decisions import SUPERSEDED, WeightsProposal
from closeloop.services.weights import preset_version
from closeloop.store.database import Sessions
from closeloop.store.weights import CycleClose

REFUSED = "CycleRefused"
WAITS_FOR_A_PERSON = "waits for a person: one reverted weights, and none has approved any since"


class WeightCycleActivities:
    """Evaluates and proposes, in one transaction that holds the book."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, preset: Preset) -> None:
        self._sessions = sessions
        self._policy = policy
        self._preset = preset

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.open_cycle, self.standing, self.books_due]

    @activity.defn(name="open_weight_cycle")
    async def open_cycle(self, request: OpenCycle) -> OpenedCycle:
        """Evaluate the cycle that ended, then propose weights or record why not. A retry answers from the record."""
        now = datetime.now(UTC)
        if request.as_of > now + CLOCK_TOLERANCE:
            raise _refused("as_of: must not be in the future")
        task = on_record(self._sessions, "weights", request.book, refusal=REFUSED)
        async with task, transaction(self._sessions) as session:
            await known_book(session, request.book, REFUSED)
            book = await store.books.hold(session, request.book)  # a removal waits, since the book is known
            cycle_id = f"{request.book}/{book.cadence.period(request.as_of)}"
            existing = await store.weights.cycle(session, cycle_id) or await store.weights.cycle_as_of(
                session,
                request.book,
                request.as_of,  # started again after the book got another cadence
            )
            if existing is not None:
                return await self._opened(session, existing)
            last = await store.weights.last_cycle(session, request.book)
            if last is not None and last.as_of >= request.as_of:
                raise _refused(f"as_of: must be after that of the last cycle, {last.as_of.isoformat()}")
            await self._supersede(session, last, now)
            preset = await self._preset_of(session, book)
            active = await store.weights.active(session, request.book)
            in_force = active or preset_version(request.book, preset, self._policy)
            draft = await self._evaluate(session, request, cycle_id, in_force, preset, last, now)
            if reason := self._why_the_preset(draft):
                draft = await self._restore_preset(session, draft, in_force, preset, reason)
            else:
                draft = await self._propose(session, request, draft)
            await store.weights.insert_cycle(session, draft)
            await _append_event(session, draft)
            stored = await store.weights.cycle(session, cycle_id)
            assert stored is not None, "it was just written"
            return await self._opened(session, stored)

    async def _opened(self, session: AsyncSession, record: CycleRecord) -> OpenedCycle:
        """The answer for the cycle's workflow, made from the record alone, so that a retry answers the same."""
        cycle = OpenedCycle(
            cycle_id=record.cycle_id,
            workflow_id=record.workflow_id,
            book=record.book,
            as_of=record.as_of,
            state=record.state,
            reason=record.reason,
            old=record.old,
            new=record.new,
            evidence=record.evidence,
            deadline=record.deadline,
            predecessor=await store.weights.workflow_before(session, record.book, record.as_of),
            unknown_domains=record.unknown_domains,
            sentence=_sentence(record),
            self_approved=record.state is CycleState.proposed
            and record.approves_itself
            and self._policy.weights.self_approve_max_q is not None,
        )
        if not cycle.self_approved:
            return cycle
        found = await WeightsProposal().find(session, CycleKey(cycle_id=cycle.cycle_id, book=cycle.book).approval)
        assert found is not None, "it proposes something"
        made = await record_by_policy(session, found, "by the statistically supported domains alone")
        return cycle.model_copy(update={"self_approval": made})

    async def _supersede(self, session: AsyncSession, last: CycleRecord | None, now: datetime) -> None:
        """A proposal that still waits when the next cycle begins has expired."""
        if last is None or last.state is not CycleState.proposed:
            return
        await store.weights.settle_cycle(session, last.cycle_id, CycleState.expired, reason=SUPERSEDED, decided_at=now)
        payload = {"book": last.book, "cycle_id": last.cycle_id, "reason": SUPERSEDED}
        await store.events.append(session, (EventType.weights_expired, last.cycle_id, payload))

    async def _preset_of(self, session: AsyncSession, book: BookView) -> Weights:
        """The weights of a book's preset. A book that nobody set up settles on the default preset here."""
        if book.preset is not None and book.preset_weights is not None:
            return book.preset_weights
        try:
            weights = preset_weights(self._preset, self._policy.weights)
        except InfeasibleBounds as error:
            raise _infeasible(error) from None
        await store.books.set_preset(session, book.book, self._preset.name, weights, None)
        return weights

    async def _evaluate(
        self,
        session: AsyncSession,
        request: OpenCycle,
        cycle_id: str,
        active: ActiveWeights,
        preset: Weights,
        last: CycleRecord | None,
        now: datetime,
    ) -> CycleRecord:
        """Performance since the previous cycle of the positions that were opened under the weights in force."""
        closes = await store.weights.closes_between(
            session, request.book, last.as_of if last else None, request.as_of, active.since
        )
        policy, trades = self._policy.weights, [self._trade(close) for close in closes]
        found = cycle_performance(trades)
        learned = active.source == "learned"
        streak, guard = 0, None
        # Each rule goes on from the cycle before where that was under learned weights and the same rule.
        same = last if last is not None and last.learned and last.state is not CycleState.preset_restored else None
        if learned and policy.revert == "guarded":
            wealth = same.guard.wealth if same is not None and same.guard is not None else None
            guard = guard_reading(wealth, trades, active.weights, preset, policy)
        elif learned:
            before = same.streak if same is not None and same.guard is None else 0
            streak = degradation_streak(before, found, await self._earlier(session, request.book), policy)
        return CycleRecord(
            cycle_id=cycle_id,
            workflow_id=request.workflow_id,
            book=request.book,
            as_of=request.as_of,
            state=CycleState.no_adjustment,
            reason=None,
            proposal_id=None,
            old=active.weights,
            new=None,
            evidence={},
            deadline=None,
            created_at=now,
            policy_hash=self._policy.weights.hash,
            learned=learned,
            performance_n=found.n,
            performance_pnl=found.mean_pnl,
            performance_r=found.mean_r,
            streak=streak,
            guard=guard,
        )

    def _trade(self, close: CycleClose) -> CycleTrade:
        return CycleTrade(
            close.realized_pnl,
            close.rr,
            side_of(close.direction, self._policy.weights),
            close.direction_correct,
            close.domain_scores,
        )

    def _why_the_preset(self, draft: CycleRecord) -> str | None:
        """Why the book goes back to its preset by the policy's rule; None where it does not."""
        if draft.guard is not None:
            guard = draft.guard
            if guard.evidence < guard.threshold:
                return None
            return f"guarded: the preset would have done better, evidence {guard.evidence:.1f} of {guard.threshold:g}"
        if draft.streak < self._policy.weights.degrading_cycles:
            return None
        return f"degraded in {draft.streak} cycles in a row"

    async def _earlier(self, session: AsyncSession, book: str) -> CyclePerformance | None:
        """What to compare with: the last learned cycle that counts, or for the first one the last preset cycle."""
        enough = self._policy.weights.min_cycle_positions
        found = await store.weights.last_counting_cycle(session, book, enough, learned=True)
        found = found or await store.weights.last_counting_cycle(session, book, enough, learned=False)
        if found is None:
            return None
        return CyclePerformance(found.performance_n, found.performance_pnl, found.performance_r)

    async def _restore_preset(
        self, session: AsyncSession, draft: CycleRecord, active: ActiveWeights, preset: Weights, reason: str
    ) -> CycleRecord:
        """Back to the preset at once, which is the safe direction."""
        version = ActiveWeights(
            book=active.book,
            weights=preset,
            version=active.version + 1,
            source="preset",
            since=draft.in_its_time(draft.created_at),
            policy_hash=self._policy.weights.hash,
        )
        await store.weights.activate(session, version, active.weights, draft.cycle_id, VersionCause.restored, reason)
        return draft.model_copy(
            update={"state": CycleState.preset_restored, "reason": reason, "version": version.version}
        )

    async def _propose(self, session: AsyncSession, request: OpenCycle, draft: CycleRecord) -> CycleRecord:
        policy = self._policy.weights
        first = await store.weights.first_close(session, request.book, request.as_of)
        window = request.as_of - timedelta(days=policy.window_days)
        restored = await store.weights.last_restoration(session, request.book)
        closes = await store.weights.closes_between(session, request.book, window, request.as_of, restored)
        trades = [self._trade(close) for close in closes]
        evidence = evidence_of(trades, draft.old, policy)
        draft = draft.model_copy(
            update={
                "evidence": {domain: _evidence_of(c) for domain, c in evidence.items()},
                "unknown_domains": first_names(sorted({d for t in trades for d in t.scores} - set(draft.old))),
            }
        )
        held_back = policy.self_approve_max_q is not None and await store.weights.a_person_reverted(
            session, request.book
        )
        try:
            found = propose(
                draft.old,
                evidence,
                n=len(closes),
                first_close=first,
                as_of=request.as_of,
                policy=policy,
                may_approve_itself=not held_back,
            )
        except InfeasibleBounds as error:
            raise _infeasible(error) from None
        if found.new is None:
            return draft.model_copy(update={"reason": found.reason})
        wait = timedelta(hours=self._policy.approvals.hours) if request.deadline is None else request.deadline
        try:
            deadline = draft.created_at + wait
        except OverflowError:
            raise _refused("deadline: lies beyond the calendar") from None
        return draft.model_copy(
            update={
                "state": CycleState.proposed,
                "new": found.new,
                "deadline": deadline,
                "approves_itself": found.approves_itself,
                "reason": WAITS_FOR_A_PERSON if held_back else None,
            }
        )

    @activity.defn(name="standing_of_cycle")
    async def standing(self, key: CycleKey) -> CycleStanding:
        """The state of a cycle on record, and whether the next one has begun."""
        async with transaction(self._sessions) as session:
            record = await store.weights.cycle(session, key.cycle_id)
            last = await store.weights.last_cycle(session, key.book)
        if record is None or last is None:
            raise ApplicationError(f"no cycle {key.cycle_id}", type="CycleUnknown", non_retryable=True)
        return CycleStanding(state=record.state, next_has_begun=last.cycle_id != key.cycle_id)

    @activity.defn(name="books_due")
    async def books_due(self, request: CurrentCyclesRequest) -> list[CurrentCycle]:
        """The cycle of the period that each book is in, where it lacks one; a page of them."""
        async with transaction(self._sessions) as session:
            return await periods.cycles_due(session, request)


def _sentence(record: CycleRecord) -> str:
    if record.state == CycleState.proposed and record.new is not None:
        return f"{record.book}: proposes {moved_weights(record.old, record.new)}"
    return f"{record.book}: {record.state.replace('_', ' ')}" + (f", {record.reason}" if record.reason else "")


def _evidence_of(correlation: DomainCorrelation) -> DomainEvidence:
    return DomainEvidence.model_validate({name: getattr(correlation, name) for name in DomainEvidence.model_fields})


async def _append_event(session: AsyncSession, record: CycleRecord) -> None:
    fields = {"cycle_id", "book", "as_of", "state", "reason", "old", "new", "evidence", "streak", "unknown_domains"}
    fields |= {"guard", "approves_itself"}
    payload = record.model_dump(mode="json", include=fields | {"policy_hash"})
    kind = EventType.weights_proposed if record.state is CycleState.proposed else EventType.weights_unchanged
    if record.state is CycleState.preset_restored:
        kind = EventType.weights_reverted
        payload |= {"version": record.version, "operator": "closeloop", "note": record.reason}
    await store.events.append(session, (kind, record.cycle_id, payload))


def _infeasible(error: InfeasibleBounds) -> ApplicationError:
    return ApplicationError(f"policy: {error}", type="PolicyInfeasible", non_retryable=True)


def _refused(reason: str) -> ApplicationError:
    return ApplicationError(reason, type=REFUSED, non_retryable=True)
