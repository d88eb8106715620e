"""Activities of governed weights: evaluate, propose, decide, apply, revert, and keep the overlay file true."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Row, RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from closeloop import store
from closeloop.activities.attribution import CLOCK_TOLERANCE
from closeloop.activities.transactions import transaction
from closeloop.gateways.overlay import OverlayFolder
from closeloop.learning.overfitting import ClosedTrade, Performance, degradation_streak, performance
from closeloop.learning.weights import Correlation, InfeasibleBounds, adjusted, correlate, project, with_q_values
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.sentences import moved_weights
from closeloop.models.weights import (
    ActiveWeights,
    BookDue,
    BooksDue,
    Cadence,
    CycleKey,
    CycleState,
    CycleView,
    DecisionAnswer,
    OpenCycle,
    OpenedCycle,
    OverlayReport,
    Preset,
    RecordDecision,
    RefusedWord,
    SignalTimeRequest,
    Standing,
    Verdict,
    Weights,
)
from closeloop.store.database import Sessions

DELETED_OVERLAY = "whoever deleted the overlay file"
SAME = 1e-12  # two weights nearer than this are one: the grid on which weights lie is finer


class WeightActivities:
    """Everything that a cycle does, each step in one transaction that holds the book."""

    def __init__(
        self, sessions: Sessions, policy: LearningPolicy, preset: Preset, overlays: OverlayFolder, client: Client
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._preset = preset
        self._overlays = overlays
        self._client = client

    # -- the cycle -----------------------------------------------------------------------------------------------

    @activity.defn(name="open_weight_cycle")
    async def open_cycle(self, request: OpenCycle) -> OpenedCycle:
        """Evaluate the cycle that ended, then propose new weights or record why not. Once: a retry reads the record."""
        now = datetime.now(UTC)
        if request.as_of > now + CLOCK_TOLERANCE:
            raise _refused("as_of: must not be in the future")
        async with transaction(self._sessions) as session:
            book = await store.books.hold(session, request.book)
            cycle_id = f"{request.book}/{Cadence(book['cadence']).period(request.as_of)}"
            if existing := await store.weights.cycle(session, cycle_id):
                return await self._opened(session, existing)
            last = await store.weights.last_cycle(session, request.book)
            if last is not None and last["as_of"] >= request.as_of:
                raise _refused(f"as_of: must be after that of the last cycle, {last['as_of'].isoformat()}")
            await self._supersede(session, last, now)
            active = await self._active(session, book)
            row = await self._evaluate(session, request, cycle_id, active, last, now)
            if row["streak"] >= self._policy.weights.degrading_cycles:
                await self._restore_preset(session, book, row, active)
            else:
                await self._propose(session, request, row, active, now)
            await store.weights.insert_cycle(session, row)
            kind = EventType.weights_proposed if row["state"] == CycleState.proposed else EventType.weights_unchanged
            if row["state"] != CycleState.preset_restored:
                await _tell(session, kind, cycle_id, _payload(row))
            stored = await store.weights.cycle(session, cycle_id)
            assert stored is not None, "it was just written"
            return await self._opened(session, stored)

    async def _opened(self, session: AsyncSession, row: RowMapping) -> OpenedCycle:
        """A cycle as its workflow is told of it: from the record alone, so that a retry is told the same."""
        view = store.weights.view(row)
        cycle = OpenedCycle(
            cycle_id=view.cycle_id,
            workflow_id=view.workflow_id,
            book=view.book,
            as_of=view.as_of,
            state=view.state,
            reason=view.reason,
            old=view.old,
            new=view.new,
            evidence=view.evidence,
            deadline=view.deadline,
            predecessor=await store.weights.workflow_before(session, view.book, view.as_of),
            unknown_domains=row["unknown_domains"],
            sentence=_sentence(view),
        )
        return cycle.model_copy(update={"self_approved": self._may_approve_itself(cycle)})

    async def _supersede(self, session: AsyncSession, last: RowMapping | None, now: datetime) -> None:
        """A proposal that still waits when the next cycle begins has expired."""
        if last is not None and last["state"] == CycleState.proposed:
            await store.weights.settle_cycle(
                session, last["cycle_id"], CycleState.expired, reason="superseded", decided_at=now
            )
            await _tell(
                session,
                EventType.weights_expired,
                last["cycle_id"],
                {"book": last["book"], "cycle_id": last["cycle_id"], "reason": "superseded"},
            )

    async def _active(self, session: AsyncSession, book: RowMapping) -> ActiveWeights:
        """The weights in force. A book that nobody set up settles on the default preset here."""
        if book["preset"] is None:
            try:
                weights = preset_weights(self._preset, self._policy)
            except InfeasibleBounds as error:
                raise _infeasible(error) from None
            await store.books.set_preset(session, book["book_id"], self._preset.name, weights, None)
        else:
            weights = book["preset_weights"]
        return await store.weights.active(session, book["book_id"]) or preset_version(
            book["book_id"], weights, self._policy
        )

    async def _evaluate(
        self,
        session: AsyncSession,
        request: OpenCycle,
        cycle_id: str,
        active: ActiveWeights,
        last: RowMapping | None,
        now: datetime,
    ) -> dict[str, Any]:
        """Performance since the previous cycle of the positions that were opened under the weights in force."""
        closes = await store.weights.closes_between(
            session, request.book, last["as_of"] if last else None, request.as_of, active.since
        )
        result = performance([ClosedTrade(float(c["realized_pnl"]), c["rr"]) for c in closes])
        learned = active.source == "learned"
        streak = 0
        if learned:
            before = last["streak"] if last is not None and last["learned"] else 0
            streak = degradation_streak(
                before, result, await self._earlier(session, request.book), self._policy.weights.min_cycle_positions
            )
        return {
            "cycle_id": cycle_id,
            "book_id": request.book,
            "workflow_id": request.workflow_id,
            "as_of": request.as_of,
            "state": CycleState.no_adjustment,
            "reason": None,
            "old": active.weights,
            "new": None,
            "evidence": {},
            "learned": learned,
            "performance_n": result.n,
            "performance_pnl": result.mean_pnl,
            "performance_r": result.mean_r,
            "streak": streak,
            "unknown_domains": [],
            "deadline": None,
            "version": None,
            "policy_hash": self._policy.policy_hash,
            "created_at": now,
        }

    async def _earlier(self, session: AsyncSession, book: str) -> Performance | None:
        """What to compare with: the last learned cycle that counts, or for the first one the last preset cycle."""
        enough = self._policy.weights.min_cycle_positions
        row = await store.weights.last_counting_cycle(session, book, enough, learned=True)
        row = row or await store.weights.last_counting_cycle(session, book, enough, learned=False)
        return None if row is None else Performance(row["performance_n"], row["performance_pnl"], row["performance_r"])

    async def _restore_preset(
        self, session: AsyncSession, book: RowMapping, row: dict[str, Any], active: ActiveWeights
    ) -> None:
        """Performance fell cycle after cycle: back to the preset at once, which is the safe direction."""
        reason = f"degraded in {row['streak']} cycles in a row"
        version = await self._activate_preset(session, book, active, row["cycle_id"], row["as_of"], reason)
        row |= {"state": CycleState.preset_restored, "reason": reason, "new": None, "version": version}
        payload = _payload(row) | {"version": version, "operator": "closeloop", "note": reason}
        await _tell(session, EventType.weights_reverted, row["cycle_id"], payload)

    async def _activate_preset(
        self,
        session: AsyncSession,
        book: RowMapping,
        active: ActiveWeights,
        cycle_id: str,
        since: datetime,
        reason: str,
    ) -> int:
        version = ActiveWeights(
            book=active.book,
            weights=book["preset_weights"],
            version=active.version + 1,
            source="preset",
            since=since,
            policy_hash=self._policy.policy_hash,
        )
        await store.weights.activate(session, version, active.weights, cycle_id, reason)
        return version.version

    async def _propose(
        self, session: AsyncSession, request: OpenCycle, row: dict[str, Any], active: ActiveWeights, now: datetime
    ) -> None:
        policy = self._policy
        first = await store.weights.first_close(session, request.book, request.as_of)
        window = request.as_of - timedelta(days=policy.weights.window_days)
        restored = await store.weights.last_restoration(session, request.book)
        closes = await store.weights.closes_between(session, request.book, window, request.as_of, restored)
        evidence = self._evidence(closes, active.weights)
        row["evidence"] = {domain: _as_dict(c) for domain, c in evidence.items()}
        row["unknown_domains"] = sorted(
            {d for c in closes for d in c["domain_scores_at_entry"] or {}} - set(active.weights)
        )
        age = timedelta(0) if first is None else request.as_of - first
        if first is None or age < timedelta(days=policy.weights.cold_start_days):
            row["reason"] = "cold_start_baseline"
            return
        if len(closes) < policy.weights.min_observations:
            row["reason"] = "insufficient_data"
            return
        warm = age < timedelta(days=policy.weights.warm_days)
        delta = policy.weights.max_delta / 2 if warm else policy.weights.max_delta
        try:
            new = adjusted(
                active.weights,
                {domain: c.r for domain, c in evidence.items()},
                delta,
                policy.weights.floor,
                policy.weights.ceiling,
            )
        except InfeasibleBounds as error:
            raise _infeasible(error) from None
        if all(abs(new[domain] - weight) < SAME for domain, weight in active.weights.items()):
            row["reason"] = "no_change"
            return
        wait = timedelta(hours=policy.approvals.hours) if request.deadline is None else request.deadline
        try:
            row |= {"state": CycleState.proposed, "new": new, "deadline": now + wait}
        except OverflowError:
            raise _refused("deadline: lies beyond the calendar") from None

    def _evidence(self, closes: Sequence[RowMapping], weights: Weights) -> dict[str, Correlation]:
        pairs: dict[str, list[tuple[float, int]]] = {domain: [] for domain in weights}
        for close in closes:
            side = -1 if close["direction"] == "short" and self._policy.weights.domain_score_sign == "market" else 1
            outcome = 1 if close["direction_correct"] else -1
            for domain, score in (close["domain_scores_at_entry"] or {}).items():
                if domain in pairs:
                    pairs[domain].append((side * score, outcome))
        return with_q_values({domain: correlate(p, self._policy.weights.min_pairs) for domain, p in pairs.items()})

    def _may_approve_itself(self, cycle: OpenedCycle) -> bool:
        limit = self._policy.weights.self_approve_max_q
        if limit is None or cycle.state != CycleState.proposed or cycle.new is None:
            return False
        changed = [d for d, w in cycle.new.items() if abs(w - cycle.old[d]) >= SAME]
        q_values = [cycle.evidence[d].q for d in changed]
        return all(q is not None and q <= limit for q in q_values)

    # -- decisions -----------------------------------------------------------------------------------------------

    @activity.defn(name="decide_weights")
    async def decide(self, decision: RecordDecision) -> DecisionAnswer:
        """Carry out an operator's word, or say why not. Either way it is on record; a retry answers the same."""
        async with transaction(self._sessions) as session:
            await store.books.hold(session, decision.book)
            return await self._decide(session, decision)

    async def _decide(self, session: AsyncSession, decision: RecordDecision) -> DecisionAnswer:
        row = await store.weights.cycle(session, decision.cycle_id)
        if row is None:
            raise ApplicationError(f"no cycle {decision.cycle_id}", type="CycleUnknown", non_retryable=True)
        if _is_repetition(row, decision):
            return DecisionAnswer(
                accepted=True, state=row["state"], reason="this very word was carried out", version=row["version"]
            )
        active = await store.weights.active(session, decision.book)
        last = await store.weights.last_cycle(session, decision.book)
        if refusal := _refusal(row, decision, active, last):
            await _tell(session, EventType.weights_word_refused, _about(decision), _word(decision, refusal))
            return DecisionAnswer(accepted=False, state=row["state"], reason=refusal)
        if decision.verdict == Verdict.approve:
            return await self._apply(session, row, decision)
        if decision.verdict == Verdict.revert:
            return await self._revert(session, row, decision)
        await self._settle(session, decision, CycleState.rejected, None)
        await _tell(session, EventType.weights_rejected, decision.cycle_id, _word(decision, "rejected"))
        return DecisionAnswer(accepted=True, state=CycleState.rejected, reason="the weights stay as they are")

    async def _apply(self, session: AsyncSession, row: RowMapping, decision: RecordDecision) -> DecisionAnswer:
        active = await store.weights.active(session, decision.book)
        version = ActiveWeights(
            book=decision.book,
            weights=row["new"],
            version=(active.version if active else 0) + 1,
            source="learned",
            since=_in_the_cycles_time(row, decision.at),
            policy_hash=row["policy_hash"],
        )
        reason = _said("approved", decision)
        await store.weights.activate(session, version, row["old"], decision.cycle_id, reason)
        await self._settle(session, decision, CycleState.applied, version.version)
        payload = _word(decision, "applied") | {"version": version.version, "old": row["old"], "new": row["new"]}
        await _tell(session, EventType.weights_applied, decision.cycle_id, payload)
        return DecisionAnswer(
            accepted=True,
            state=CycleState.applied,
            reason=f"version {version.version} is in force",
            version=version.version,
        )

    async def _revert(self, session: AsyncSession, row: RowMapping, decision: RecordDecision) -> DecisionAnswer:
        """The former weights again, to the last bit: they are copied, not computed."""
        active = await store.weights.active(session, decision.book)
        assert active is not None, "an applied cycle has a version"
        former = await store.weights.version(session, decision.book, active.version - 1)
        version = ActiveWeights(
            book=decision.book,
            weights=row["old"],
            version=active.version + 1,
            source=former.source if former else "preset",
            since=_in_the_cycles_time(row, decision.at),
            policy_hash=row["policy_hash"],
        )
        reason = _said("reverted", decision)
        await store.weights.activate(session, version, active.weights, decision.cycle_id, reason)
        await self._settle(session, decision, CycleState.reverted, version.version)
        payload = _word(decision, "reverted") | {
            "version": version.version,
            "old": active.weights,
            "new": version.weights,
        }
        await _tell(session, EventType.weights_reverted, decision.cycle_id, payload)
        return DecisionAnswer(
            accepted=True,
            state=CycleState.reverted,
            reason=f"version {version.version} has the former weights",
            version=version.version,
        )

    async def _settle(
        self, session: AsyncSession, decision: RecordDecision, state: CycleState, version: int | None
    ) -> None:
        await store.weights.settle_cycle(
            session,
            decision.cycle_id,
            state,
            reason=str(state),
            decided_by=decision.operator,
            decided_at=decision.at,
            note=decision.note,
            version=version,
        )

    @activity.defn(name="expire_weights")
    async def expire(self, key: CycleKey) -> CycleState:
        """The deadline has passed: an undecided proposal expires. Returns the state that the cycle is in."""
        async with transaction(self._sessions) as session:
            await store.books.hold(session, key.book)
            row = await store.weights.cycle(session, key.cycle_id)
            if row is None:
                raise ApplicationError(f"no cycle {key.cycle_id}", type="CycleUnknown", non_retryable=True)
            if row["state"] != CycleState.proposed:
                return CycleState(row["state"])
            await store.weights.settle_cycle(
                session, key.cycle_id, CycleState.expired, reason="nobody decided before the deadline"
            )
            payload = {"book": key.book, "cycle_id": key.cycle_id, "reason": "deadline"}
            await _tell(session, EventType.weights_expired, key.cycle_id, payload)
            return CycleState.expired

    @activity.defn(name="remind_of_weights")
    async def remind(self, key: CycleKey) -> None:
        """Half of the time to decide has passed."""
        async with transaction(self._sessions) as session:
            row = await store.weights.cycle(session, key.cycle_id)
            if row is not None and row["state"] == CycleState.proposed:
                payload = {"book": key.book, "cycle_id": key.cycle_id, "deadline": row["deadline"].isoformat()}
                await _tell(session, EventType.weights_reminder, key.cycle_id, payload)
        activity.logger.warning("a weight proposal waits for an operator", extra={"cycle": key.cycle_id})

    @activity.defn(name="refuse_word")
    async def refuse_word(self, word: RefusedWord) -> None:
        """Put a signal on record that could not be understood."""
        async with transaction(self._sessions) as session:
            about = f"{word.cycle_id}/{word.run_id}/{word.number}/not-understood"
            await _tell(session, EventType.weights_word_refused, about, word.model_dump())

    @activity.defn(name="standing_of_cycle")
    async def standing(self, key: CycleKey) -> Standing:
        """Where a cycle stands on record."""
        async with transaction(self._sessions) as session:
            row = await store.weights.cycle(session, key.cycle_id)
            last = await store.weights.last_cycle(session, key.book)
        if row is None or last is None:
            raise ApplicationError(f"no cycle {key.cycle_id}", type="CycleUnknown", non_retryable=True)
        return Standing(state=row["state"], next_has_begun=last["cycle_id"] != key.cycle_id)

    @activity.defn(name="when_signalled")
    async def when_signalled(self, request: SignalTimeRequest) -> datetime | None:
        """When the n-th signal of a name reached the server, as the workflow's history says; None if it has no such."""
        number = 0
        handle = self._client.get_workflow_handle(request.workflow_id, run_id=request.run_id)
        async for event in handle.fetch_history_events():
            # An event of another kind has an empty name here.
            if event.workflow_execution_signaled_event_attributes.signal_name == request.name:
                if number == request.number:
                    return event.event_time.ToDatetime(tzinfo=UTC)
                number += 1
        return None

    # -- overlays ------------------------------------------------------------------------------------------------

    @activity.defn(name="write_overlay")
    async def write_overlay(self, key: CycleKey) -> None:
        """Make the book's overlay file say what is in force. Safe to repeat, and to be killed anywhere."""
        async with transaction(self._sessions) as session:
            await store.books.hold(session, key.book)  # one writer of the file at a time
            await self._bring_up_to_date(session, key.book)

    async def _bring_up_to_date(self, session: AsyncSession, book: str) -> None:
        active = await store.weights.active(session, book)
        if active is None:
            return
        folder = self._overlays.ensure_identity()
        if active.source == "learned":
            self._overlays.write(active)
            await store.weights.mark_overlay(session, book, active.version, "written", folder)
        else:
            self._overlays.remove(book)
            await store.weights.mark_overlay(session, book, active.version, "removed", folder)

    @activity.defn(name="check_overlays")
    async def check_overlays(self) -> OverlayReport:
        """Write overlays that are due; find those on record as written, in this very folder, that somebody deleted."""
        report = OverlayReport()
        async with transaction(self._sessions) as session:
            books = await store.weights.books_with_versions(session)
        for book in books:
            async with transaction(self._sessions) as session:
                await store.books.hold(session, book)
                found = await store.weights.overlay_state(session, book)
                if found is None:
                    continue
                if found.overlay == "due":
                    await self._bring_up_to_date(session, book)
                    report.repaired.append(book)
                elif self._is_deleted(book, found):
                    report.deleted.append(CycleKey(cycle_id=found.cycle_id, book=book))
        return report

    def _is_deleted(self, book: str, found: Row[Any]) -> bool:
        """Whether the overlay in force is on record as written, in this very folder, and is not there."""
        return (
            found.overlay == "written"
            and found.overlay_folder == self._overlays.identity()
            and not self._overlays.exists(book)
        )

    @activity.defn(name="revert_deleted_overlay")
    async def revert_deleted_overlay(self, key: CycleKey) -> DecisionAnswer:
        """Somebody deleted the book's overlay file: revert the adjustment, as if an operator had said so."""
        decision = RecordDecision(
            cycle_id=key.cycle_id,
            book=key.book,
            verdict=Verdict.revert,
            operator=DELETED_OVERLAY,
            note=f"{self._overlays.path(key.book).name} was deleted",
            at=activity.info().scheduled_time,  # of the first attempt: a retry is the same word
            while_watched=False,  # a file may be deleted at any time
        )
        async with transaction(self._sessions) as session:
            book = await store.books.hold(session, key.book)
            found = await store.weights.overlay_state(session, key.book)
            if found is None or found.cycle_id != key.cycle_id or not self._is_deleted(key.book, found):
                # Since it was seen missing, another version came into force, or the file came back.
                if found is not None and found.overlay == "due":
                    await self._bring_up_to_date(session, key.book)
                return DecisionAnswer(
                    accepted=False, state=CycleState.applied, reason="the file is not missing any more"
                )
            answer = await self._decide(session, decision)
            active = await store.weights.active(session, key.book)
            if not answer.accepted and active is not None:
                # What is in force came from an earlier revert: there is only the preset to go back to.
                reason = _said("reverted", decision)
                version = await self._activate_preset(session, book, active, key.cycle_id, decision.at, reason)
                payload = _word(decision, "reverted") | {"version": version}
                await _tell(session, EventType.weights_reverted, f"{key.cycle_id}/{version}", payload)
                answer = DecisionAnswer(
                    accepted=True, state=answer.state, reason="the preset is in force", version=version
                )
            await self._bring_up_to_date(session, key.book)
            row = await store.weights.cycle(session, key.cycle_id)
        if row is not None:
            with contextlib.suppress(RPCError):  # the cycle may have ended: then nobody watches it
                await self._client.get_workflow_handle(row["workflow_id"]).signal("look")
        return answer

    @activity.defn(name="books_due")
    async def books_due(self, request: BooksDue) -> list[BookDue]:
        """The cycle that each book is in, by its own cadence."""
        async with transaction(self._sessions) as session:
            rows = await store.books.listing(session)
        return [
            BookDue(book=row["book"], cycle_id=f"{row['book']}/{Cadence(row['cadence']).period(request.as_of)}")
            for row in rows
        ]


def preset_weights(preset: Preset, policy: LearningPolicy) -> Weights:
    """A preset's weights as they are if they keep to the bounds, else the nearest that do. Raises InfeasibleBounds."""
    allowed = project(preset.weights, policy.weights.floor, policy.weights.ceiling)
    if all(abs(allowed[domain] - weight) < SAME for domain, weight in preset.weights.items()):
        return dict(preset.weights)
    return allowed


def preset_version(book: str, weights: Weights, policy: LearningPolicy) -> ActiveWeights:
    """What is in force before anything was learned: version 0."""
    return ActiveWeights(
        book=book, weights=weights, version=0, source="preset", since=None, policy_hash=policy.policy_hash
    )


def _infeasible(error: InfeasibleBounds) -> ApplicationError:
    return ApplicationError(f"policy: {error}", type="PolicyInfeasible", non_retryable=True)


def _refused(reason: str) -> ApplicationError:
    return ApplicationError(reason, type="CycleRefused", non_retryable=True)


def _sentence(view: CycleView) -> str:
    if view.state == CycleState.proposed and view.new is not None:
        return f"{view.book}: proposes {moved_weights(view.old, view.new)}"
    return f"{view.book}: {view.state.replace('_', ' ')}" + (f", {view.reason}" if view.reason else "")


def _payload(row: dict[str, Any]) -> dict[str, Any]:
    names = (
        "cycle_id",
        "as_of",
        "state",
        "reason",
        "old",
        "new",
        "evidence",
        "streak",
        "unknown_domains",
        "policy_hash",
    )
    return {"book": row["book_id"]} | {name: row[name] for name in names}


def _as_dict(correlation: Correlation) -> dict[str, Any]:
    return {name: getattr(correlation, name) for name in ("n", "r", "ci_low", "ci_high", "p", "q")}


def _is_repetition(row: RowMapping, decision: RecordDecision) -> bool:
    """Whether this very word was carried out before: an attempt may commit and die before it answers."""
    wanted = {
        Verdict.approve: CycleState.applied,
        Verdict.reject: CycleState.rejected,
        Verdict.revert: CycleState.reverted,
    }
    return (row["state"], row["decided_by"], row["decided_at"]) == (
        wanted[decision.verdict],
        decision.operator,
        decision.at,
    )


def _refusal(
    row: RowMapping, decision: RecordDecision, active: ActiveWeights | None, last: RowMapping | None
) -> str | None:
    """Why a decision cannot be carried out now; None if it can."""
    state = CycleState(row["state"])
    by = f" by {row['decided_by']}" if row["decided_by"] else ""
    when = f" at {row['decided_at']:%Y-%m-%d %H:%M:%S} UTC" if row["decided_at"] else ""
    if not decision.operator.strip():
        return "operator: must not be empty"
    if decision.verdict == Verdict.revert:
        if state == CycleState.proposed:
            return "nothing to revert: the proposal has not been decided"
        if state != CycleState.applied:
            return f"nothing to revert: the cycle is {state}{by}{when}"
        if active is None or active.version != row["version"]:
            return f"too late: version {active.version if active else 0} has replaced what this cycle applied"
        if decision.while_watched and last is not None and last["cycle_id"] != row["cycle_id"]:
            return f"too late: the next cycle, {last['cycle_id']}, has begun"
        return None
    if state != CycleState.proposed:
        return f"already decided: {state}{by}{when}" + (f" ({row['reason']})" if state == CycleState.expired else "")
    if decision.verdict == Verdict.approve and active is not None and active.weights != row["old"]:
        return f"stale: version {active.version} has replaced the weights that this was computed from"
    if decision.at >= row["deadline"]:
        return f"expired: the deadline was {row['deadline']:%Y-%m-%d %H:%M:%S} UTC"
    return None


def _in_the_cycles_time(row: RowMapping, at: datetime) -> datetime:
    """An instant on the cycle's own time line: a cycle of last month's ``as_of`` that is decided an hour after it was
    proposed is decided an hour after that ``as_of``. For a cycle of today the two are the same."""
    since: datetime = row["as_of"] + (at - row["created_at"])
    return since


def _word(decision: RecordDecision, outcome: str) -> dict[str, Any]:
    return {
        "book": decision.book,
        "cycle_id": decision.cycle_id,
        "verdict": str(decision.verdict),
        "operator": decision.operator,
        "note": decision.note,
        "at": decision.at.isoformat(),
        "outcome": outcome,
    }


def _said(what: str, decision: RecordDecision) -> str:
    return f"{what} by {decision.operator}" + (f": {decision.note}" if decision.note else "")


def _about(decision: RecordDecision) -> str:
    return f"{decision.cycle_id}/{decision.verdict}/{decision.operator}/{decision.at.isoformat()}"


async def _tell(session: AsyncSession, kind: EventType, about: str, payload: dict[str, Any] | BaseModel) -> None:
    values = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
    await store.events.append(session, (kind, about, values))
