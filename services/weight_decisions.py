"""What an operator decides on a weight cycle: approving or rejecting its proposal, and reverting what was applied.

Everything is written in the caller's transaction, in which the book is locked.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalState,
    ApprovalVerdict,
    ApprovalView,
    Decision,
)
from closeloop.models.errors import NotOnRecord
from closeloop.models.events import EventType
from closeloop.models.launches import Launch, weight_cycle
from closeloop.models.sentences import moved_weights, short
from closeloop.models.weights import (
    WEIGHTS,
    ActiveWeights,
    CycleRecord,
    CycleRequest,
    CycleState,
    CycleView,
    RecordRevert,
    VersionCause,
    Weights,
    WeightsVerdict,
)
from closeloop.services.approvals import BOOK_REMOVED, ApprovalEvents, DecisionEffect, outcome_of
from closeloop.services.operator_decisions import POLICY_ITSELF, listen, spend
from closeloop.store.approvals import WaitingPage

SUPERSEDED = "superseded"
_STATES = {
    CycleState.proposed: ApprovalState.pending,
    CycleState.applied: ApprovalState.approved,
    CycleState.reverted: ApprovalState.approved,
    CycleState.rejected: ApprovalState.rejected,
    CycleState.expired: ApprovalState.expired,
}


def _proposal_fields(key: ApprovalKey) -> dict[str, Any]:
    return {"kind": key.kind, "book": key.book, "id": key.id, "cycle_id": cycle_id_of(key)}


def cycle_id_of(key: ApprovalKey) -> str:
    """The cycle that a key of weights names."""
    return f"{key.book}/{key.id}"


class WeightsProposal:
    """A cycle's proposal of weights, as something that waits for an operator (services/approvals.py)."""

    kind = WEIGHTS
    events = ApprovalEvents(
        approved=EventType.weights_applied,
        rejected=EventType.weights_rejected,
        expired=EventType.weights_expired,
        reminder=EventType.weights_reminder,
        word_refused=EventType.weights_word_refused,
        proposal_fields=_proposal_fields,
    )

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """See Subject."""
        await store.books.hold(session, key.book)

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """See Subject."""
        record = await store.weights.cycle(session, cycle_id_of(key))
        if record is None or record.new is None:
            return None
        return await self._view(session, record)

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """See Subject."""
        return [await self._view(session, record) for record in await store.weights.waiting(session, page)]

    async def _view(self, session: AsyncSession, record: CycleRecord) -> ApprovalView:
        assert record.new is not None, "a proposal has weights"
        assert record.deadline is not None, "a proposal has a deadline"
        key = ApprovalKey(kind=WEIGHTS, book=record.book, id=record.cycle_id.removeprefix(f"{record.book}/"))
        state, decision = _STATES[record.state], await self._decision(session, record, key)
        outcome = outcome_of(state, decision)
        if record.state is CycleState.expired and record.reason == SUPERSEDED:
            state, outcome = ApprovalState.withdrawn, "withdrawn: superseded by the next cycle"
        elif record.state is CycleState.expired and record.reason == BOOK_REMOVED:
            state, outcome = ApprovalState.withdrawn, f"withdrawn: {BOOK_REMOVED}"
        elif record.state is CycleState.reverted:
            outcome = f"{outcome}, reverted by {record.decided_by} at {record.decided_at:%Y-%m-%d %H:%M:%S} UTC"
        return ApprovalView(
            **key.model_dump(),
            proposal=f"{record.book}: weights {moved_weights(record.old, record.new)}",
            deadline=record.deadline,
            state=state,
            decision=decision,
            outcome=outcome,
            waits_in=record.workflow_id,
        )

    async def _decision(self, session: AsyncSession, record: CycleRecord, key: ApprovalKey) -> Decision | None:
        if record.state is CycleState.reverted:
            # The cycle names who reverted it; who had approved it stands in the trail (0.1 named it by the cycle's id).
            about = [key.workflow_id, record.cycle_id]
            found = await store.events.payloads(session, EventType.weights_applied, about)
            return Decision.model_validate(found[0]) if found else None
        if record.decided_by is None or record.decided_at is None:
            return None
        verdict = ApprovalVerdict.reject if record.state is CycleState.rejected else ApprovalVerdict.approve
        return Decision(verdict=verdict, operator=record.decided_by, note=record.note or "", at=record.decided_at)

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """See Subject."""
        record, active = await _cycle(session, found), await store.weights.active(session, found.book)
        if active is None or active.weights == record.old:
            return None
        return f"stale: version {active.version} has replaced the weights that this was computed from"

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """See Subject."""
        cycle_id = cycle_id_of(found)
        if decision is None:
            reason = "nobody decided before the deadline"
            await store.weights.settle_cycle(session, cycle_id, CycleState.expired, reason=reason)
            return DecisionEffect(f"{reason}: nothing changes", {"reason": "deadline"})
        if decision.verdict is ApprovalVerdict.reject:
            await _settle(session, cycle_id, CycleState.rejected, decision.operator, decision.note, decision.at, None)
            return DecisionEffect("the weights stay as they are")
        record, active = await _cycle(session, found), await store.weights.active(session, found.book)
        assert record.new is not None, "a proposal has weights"
        version = ActiveWeights(
            book=found.book,
            weights=record.new,
            version=(active.version if active else 0) + 1,
            source="learned",
            since=record.in_its_time(decision.at),
            policy_hash=record.policy_hash,
        )
        reason = reason_of("approved", decision.operator, decision.note)
        itself = record.approves_itself and decision.operator == POLICY_ITSELF
        cause = VersionCause.itself if itself else VersionCause.approved
        await store.weights.activate(session, version, record.old, cycle_id, cause, reason)
        number = version.version
        await _settle(session, cycle_id, CycleState.applied, decision.operator, decision.note, decision.at, number)
        return DecisionEffect(
            f"version {number} is in force", {"version": number, "old": record.old, "new": record.new}
        )

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """See Subject. An expired cycle whose reason is not the deadline was withdrawn."""
        await store.weights.settle_cycle(session, cycle_id_of(found), CycleState.expired, reason=reason, decided_at=at)
        payload = _proposal_fields(found) | {"reason": reason}
        await store.events.append(session, (EventType.weights_expired, found.workflow_id, payload))

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """See Subject."""
        return launch_again(await _cycle(session, found))

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """See Subject. What was applied may be reverted until the book's next cycle begins."""
        return [launch_again(cycle) for cycle in await store.weights.watched(session)]


def launch_again(cycle: CycleView) -> Launch:
    """The workflow of a cycle that is on record, from where it goes on: under the id under which it was started."""
    launch = weight_cycle(CycleRequest(book=cycle.book, as_of=cycle.as_of), cycle.cycle_id)
    return replace(launch, id=cycle.workflow_id)


# -- undoing -----------------------------------------------------------------------------------------------------------


async def revert(
    session: AsyncSession, word: RecordRevert, *, sender: str | None = None, require_token: bool = False
) -> ApprovalAnswer:
    """Bring the weights that an applied cycle replaced back into force, or refuse and say why; an event says either.

    The former weights are copied, not computed: equal to the last bit. ``sender`` and ``require_token`` as in
    services/approvals.py, save that a revert's record needs no token. Raises NotOnRecord.
    """
    await store.books.hold(session, word.book)
    record = await _cycle(session, word)
    said = word
    heard = await listen(session, said, WeightsVerdict.revert, required=require_token, proposal=None)
    word = word.model_copy(update={"operator": heard.operator, "note": heard.note, "at": heard.at})
    by = {"sender": sender, "token": heard.token}
    if heard.repeated and heard.record is not None:
        return _answer(record, bool(heard.record.accepted), heard.record.outcome or "", word, sender)
    settled = (record.state, record.decided_by, record.decided_at)
    if said.record is None and settled == (CycleState.reverted, word.operator, word.at):
        return _answer(record, True, "this very word was carried out", word, sender)
    active = await store.weights.active(session, word.book)
    last = await store.weights.last_cycle(session, word.book)
    if refusal := heard.refusal or _refusal(record, word, active, last):
        await spend(session, said, WeightsVerdict.revert, heard, sender, False, refusal)
        which = f"/{WeightsVerdict.revert}/{word.operator}/{word.at.isoformat()}"
        if said.record is not None and said.said_in is not None:
            which += f"/{said.said_in.name}"
        await _append_event(session, EventType.weights_word_refused, word, {"outcome": refusal} | by, which)
        return _answer(record, False, refusal, word, sender)
    assert active is not None, "an applied cycle has a version"
    former = await store.weights.version(session, word.book, active.version - 1)
    since = record.in_its_time(word.at)
    source = former.source if former else "preset"
    version = await _go_back(session, word, active, record.old, source, since, record.policy_hash, by)
    await _settle(session, record.cycle_id, CycleState.reverted, word.operator, word.note, word.at, version)
    outcome = f"version {version} has the former weights"
    await spend(session, said, WeightsVerdict.revert, heard, sender, True, outcome)
    return _answer(record, True, outcome, word, sender)


async def revert_to_preset(session: AsyncSession, word: RecordRevert) -> ApprovalAnswer:
    """Bring the preset's weights into force, whatever is in force now; a cycle that had applied those is reverted.

    For where the overlay file was deleted: an engine is on its own defaults then, until somebody approves again. Raises
    NotOnRecord.
    """
    book = await store.books.hold(session, word.book)
    record, active = await _cycle(session, word), await store.weights.active(session, word.book)
    assert active is not None, "what is undone has a version"
    assert book.preset_weights is not None, "a book with a cycle has a preset"
    since = record.in_its_time(word.at)
    version = await _go_back(session, word, active, book.preset_weights, "preset", since, record.policy_hash)
    if record.state is CycleState.applied and record.version == active.version:
        await _settle(session, record.cycle_id, CycleState.reverted, word.operator, word.note, word.at, version)
    return _answer(record, True, f"version {version} has the preset's weights", word, None)


async def _go_back(
    session: AsyncSession,
    word: RecordRevert,
    active: ActiveWeights,
    weights: Weights,
    source: str,
    since: datetime,
    policy_hash: str,
    by: Mapping[str, str | None] | None = None,
) -> int:
    version = ActiveWeights(
        book=word.book,
        weights=weights,
        version=active.version + 1,
        source=source,
        since=since,
        policy_hash=policy_hash,
    )
    reason = reason_of("reverted", word.operator, word.note)
    await store.weights.activate(session, version, active.weights, cycle_id_of(word), VersionCause.reverted, reason)
    payload = {"outcome": "reverted", "version": version.version, "old": active.weights, "new": weights, **(by or {})}
    await _append_event(session, EventType.weights_reverted, word, payload, f"/{version.version}")
    return version.version


def _refusal(
    record: CycleRecord, word: RecordRevert, active: ActiveWeights | None, last: CycleRecord | None
) -> str | None:
    """Why what a cycle applied cannot be undone now; None if it can."""
    if not word.operator.strip():
        return "operator: must not be empty"
    if record.state is CycleState.proposed:
        return "nothing to revert: the proposal has not been decided"
    if record.state is not CycleState.applied:
        by = f" by {record.decided_by}" if record.decided_by else ""
        when = f" at {record.decided_at:%Y-%m-%d %H:%M:%S} UTC" if record.decided_at else ""
        return f"nothing to revert: the cycle is {record.state}{by}{when}"
    if active is None or active.version != record.version:
        return f"too late: version {active.version if active else 0} has replaced what this cycle applied"
    if word.while_watched and last is not None and last.cycle_id != record.cycle_id:
        return f"too late: the next cycle, {last.cycle_id}, has begun"
    return None


def reason_of(what: str, operator: str, note: str) -> str:
    """Why a version is in force, as history shows it: ``approved by ann: looks right``."""
    return f"{what} by {operator}" + (f": {note}" if note else "")


def _answer(record: CycleRecord, accepted: bool, reason: str, word: RecordRevert, sender: str | None) -> ApprovalAnswer:
    state = _STATES.get(record.state, ApprovalState.withdrawn)  # of a cycle that proposed nothing
    reason = short(reason, 2_000)
    return ApprovalAnswer(accepted=accepted, state=state, reason=reason, operator=word.operator, sender=sender)


async def _cycle(session: AsyncSession, key: ApprovalKey) -> CycleRecord:
    record = await store.weights.cycle(session, cycle_id_of(key))
    if record is None:
        raise NotOnRecord(f"There is no cycle {cycle_id_of(key)}.")
    return record


async def _settle(
    session: AsyncSession,
    cycle_id: str,
    state: CycleState,
    operator: str,
    note: str,
    at: datetime,
    version: int | None,
) -> None:
    await store.weights.settle_cycle(
        session,
        cycle_id,
        state,
        reason=str(state),
        decided_by=operator,
        decided_at=at,
        note=note,
        version=version,
    )


async def _append_event(
    session: AsyncSession, event: EventType, word: RecordRevert, payload: dict[str, Any], which: str
) -> None:
    decision = {
        "verdict": WeightsVerdict.revert,
        "operator": word.operator,
        "note": word.note,
        "at": word.at.isoformat(),
    }
    await store.events.append(session, (event, word.workflow_id + which, _proposal_fields(word) | decision | payload))
