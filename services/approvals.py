"""What waits for an operator, and the one place that decides on it, whatever the subject.

A subject (weights, an override, the meta-producer's mode) is a class with the methods of :class:`Subject` and a line in
``workers/wiring.py``. Its own table holds the state and the deadline; what an approval changes is changed in the
transaction that records the decision. So the database decides every race: two operators, an operator and the deadline,
a withdrawal meanwhile, an attempt that is repeated because the worker died before it could answer.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalRequest,
    ApprovalState,
    ApprovalVerdict,
    ApprovalView,
    Decision,
    RecordApproval,
    RefusedApproval,
    Said,
)
from closeloop.models.errors import ChangedSince, NotOnRecord, RunFailed
from closeloop.models.events import EventType
from closeloop.models.launches import Launch, approval
from closeloop.models.operator_decisions import DecisionRecord
from closeloop.services import books
from closeloop.services.launching import start
from closeloop.services.operator_decisions import REVERT, hash_of_proposal, listen, record, spend
from closeloop.store.approvals import WaitingPage
from closeloop.store.database import Sessions


def _proposal_fields(key: ApprovalKey) -> dict[str, Any]:
    return {"kind": key.kind, "book": key.book, "id": key.id}


@dataclass(frozen=True)
class ApprovalEvents:
    """The types of a subject's events. A type is an interface: those of weights are older than the others."""

    approved: EventType = EventType.approval_approved
    rejected: EventType = EventType.approval_rejected
    expired: EventType = EventType.approval_expired
    reminder: EventType = EventType.approval_reminder
    word_refused: EventType = EventType.approval_word_refused
    proposal_fields: Callable[[ApprovalKey], dict[str, Any]] = _proposal_fields
    """The fields by which an event's payload names the proposal."""


@dataclass(frozen=True)
class DecisionEffect:
    """What a decision changed, in a sentence, and further fields of its event."""

    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Subject(Protocol):
    """Something that an operator decides on."""

    @property
    def kind(self) -> str:
        """Stands in workflow ids and histories: never rename a subject."""
        ...

    @property
    def events(self) -> ApprovalEvents:
        """What its events are called."""
        ...

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """Lock what the decision changes until the transaction ends: nobody else decides meanwhile."""
        ...

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """The proposal, waiting or decided; None where it was never made."""
        ...

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """Proposals that wait, the soonest deadline first."""
        ...

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """Why an approval cannot be carried out, although it came in time; None if it can."""
        ...

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """Record and carry out what an operator decided (None: nobody did), in the session's transaction."""
        ...

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """Withdraw a proposal that waits, in the session's transaction; the caller holds it and tells of it."""
        ...

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """The workflow that waits for the operator."""
        ...

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """Workflows that listen to operators after the decision, because what was approved may be undone."""
        ...


Subjects = Sequence[Subject]

DECISIONS_AT_A_DEADLINE = 20  # on record for one proposal, of which the first that holds is carried out

BOOK_REMOVED = "the book was removed"
"""Why a proposal was withdrawn, or what was in force ended."""

_STATES = {ApprovalVerdict.approve: ApprovalState.approved, ApprovalVerdict.reject: ApprovalState.rejected}


def outcome_of(state: ApprovalState, decision: Decision | None) -> str | None:
    """What became of a proposal, and by whom: ``approved by ann at 2026-05-04 12:00:00 UTC``; None while it waits."""
    if state is ApprovalState.pending:
        return None
    if decision is None:
        return f"{state}, nobody decided"
    return f"{state} by {decision.operator} at {decision.at:%Y-%m-%d %H:%M:%S} UTC"


# -- reading -----------------------------------------------------------------------------------------------------------


async def waiting(
    session: AsyncSession,
    subjects: Subjects,
    *,
    book: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[ApprovalView]:
    """Proposals that wait, the soonest deadline first; at most the ``last`` ones of those before ``before``.

    ``before`` is the ``kind/book/id`` of a proposal, waiting or decided. Raises NotOnRecord where there is none.
    """
    await books.find_if_named(session, book)
    cursor = None
    if before is not None:
        found = await show(session, subjects, before)
        cursor = (found.deadline, found.workflow_id)
    page = WaitingPage(book=book, last=last, before=cursor)
    views = [view for subject in subjects for view in await subject.waiting(session, page)]
    views.sort(key=lambda view: (view.deadline, view.workflow_id))
    return await _with_recorded(session, views if last is None else views[-last:])


async def _with_recorded(session: AsyncSession, views: Sequence[ApprovalView]) -> list[ApprovalView]:
    found = await store.operator_decisions.first_unspent(session, views)
    return [
        view if (made := found.get(view.workflow_id)) is None else view.model_copy(update={"recorded": _decision(made)})
        for view in views
    ]


def _decision(made: DecisionRecord) -> Decision:
    return Decision(
        verdict=ApprovalVerdict(made.verdict),
        operator=made.operator,
        note=made.note,
        at=made.recorded_at,
        token=made.token_id,
    )


async def show(session: AsyncSession, subjects: Subjects, name: str) -> ApprovalView:
    """A proposal, waiting or decided, by its ``kind/book/id``. Raises NotOnRecord."""
    try:
        key = ApprovalKey.named(name)
    except ValueError:
        raise NotOnRecord(
            f"There is no {name}: a proposal is named KIND/BOOK/ID, as 'closeloop approvals list' shows it."
        ) from None
    view = await find(session, subject_of(subjects, key), key)
    if view.state is ApprovalState.pending:
        [view] = await _with_recorded(session, [view])
    if view.decision is None:
        return view
    for made in await store.operator_decisions.carried_out(session, key):
        if made.verdict == view.decision.verdict:
            told = {"sender": made.sender, "token": made.token_id}
            return view.model_copy(update={"decision": view.decision.model_copy(update=told)})
    return view


async def find(session: AsyncSession, subject: Subject, key: ApprovalKey) -> ApprovalView:
    """A proposal of a subject, waiting or decided. Raises NotOnRecord."""
    found = await subject.find(session, key)
    if found is None:
        raise NotOnRecord(f"There is no {key.workflow_id}: 'closeloop approvals list' shows what waits.")
    return found


def subject_of(subjects: Subjects, key: ApprovalKey) -> Subject:
    """The subject of a key's kind. Raises NotOnRecord."""
    for subject in subjects:
        if subject.kind == key.kind:
            return subject
    raise NotOnRecord(f"There is no {key.workflow_id}: kinds are {', '.join(s.kind for s in subjects)}.")


# -- deciding: each in the caller's transaction ------------------------------------------------------------------------


async def decide(
    session: AsyncSession,
    subject: Subject,
    record: RecordApproval,
    *,
    sender: str | None = None,
    require_token: bool = False,
    four_eyes: bool = False,
) -> ApprovalAnswer:
    """Carry out an operator's decision (or the deadline, where ``record.verdict`` is None), or say why not.

    Either way an event says so. The same decision a second time is answered like the first and changes nothing.
    ``sender``: who sent the word, as Temporal reports it. ``require_token``: a word that names no decision on record is
    refused; ``four_eyes``: so is an approval without a token, or by the one that proposed. Raises NotOnRecord. Writes
    in the caller's transaction.
    """
    await subject.hold(session, record)
    found = await find(session, subject, record)
    if record.deadline is not None:
        found = found.model_copy(update={"deadline": record.deadline})
    if record.verdict is not None:
        return await _decide(session, subject, found, record, record.verdict, sender, require_token, four_eyes)
    if found.state is ApprovalState.pending:
        # A door died between recording a decision and telling the workflow: the record decides.
        page = DECISIONS_AT_A_DEADLINE
        for on_record in await store.operator_decisions.unspent(session, page, about=found, before=found.deadline):
            if on_record.verdict not in set(ApprovalVerdict):
                continue
            said = record.model_copy(update={"record": on_record.decision_id})
            verdict = ApprovalVerdict(on_record.verdict)
            answer = await _decide(session, subject, found, said, verdict, sender, require_token, four_eyes)
            if answer.accepted:
                return answer
    return await _expire(session, subject, found)


async def _decide(
    session: AsyncSession,
    subject: Subject,
    found: ApprovalView,
    said: Said,
    verdict: ApprovalVerdict,
    sender: str | None,
    require_token: bool,
    four_eyes: bool,
) -> ApprovalAnswer:
    waits = found.state is ApprovalState.pending
    proposal = found if waits else None
    heard = await listen(session, said, verdict, required=require_token, proposal=proposal, four_eyes=four_eyes)
    decision = Decision(
        verdict=verdict, operator=heard.operator, note=heard.note, at=heard.at, sender=sender, token=heard.token
    )
    by = {"operator": heard.operator, "sender": sender}
    if heard.repeated and heard.record is not None:
        accepted, outcome = bool(heard.record.accepted), heard.record.outcome or ""
        return ApprovalAnswer(accepted=accepted, state=found.state, reason=outcome, **by)
    if said.record is None and decision.is_same_word(found.decision):
        return ApprovalAnswer(accepted=True, state=found.state, reason="this very word was carried out", **by)
    reason = heard.refusal or _refusal(found, decision)
    if reason is None and verdict is ApprovalVerdict.approve:
        reason = await subject.objection(session, found)
    if reason is not None:
        await spend(session, said, verdict, heard, sender, False, reason)
        await _refuse(session, subject, found, decision, said, reason)
        return ApprovalAnswer(accepted=False, state=found.state, reason=reason, **by)
    changed = await subject.settle(session, found, decision)
    await spend(session, said, verdict, heard, sender, True, changed.sentence)
    state = _STATES[verdict]
    event = subject.events.approved if state is ApprovalState.approved else subject.events.rejected
    payload = decision.model_dump(mode="json") | {"outcome": changed.sentence, **changed.details}
    await _append_event(session, subject, event, found, payload)
    return ApprovalAnswer(accepted=True, state=state, reason=changed.sentence, **by)


async def remind(session: AsyncSession, subject: Subject, key: ApprovalKey) -> ApprovalView:
    """Append the reminder that half of the time to decide has passed, once, if the proposal still waits.

    Raises NotOnRecord. Writes in the caller's transaction.
    """
    found = await find(session, subject, key)
    if found.state is ApprovalState.pending:
        payload = {"proposal": found.proposal, "deadline": found.deadline.isoformat()}
        await _append_event(session, subject, subject.events.reminder, found, payload)
    return found


async def refuse_word(
    session: AsyncSession, subject: Subject, word: RefusedApproval, sender: str | None = None
) -> None:
    """Append the event of an operator's word that could not be understood. Writes in the caller's transaction."""
    payload = {"operator": word.operator, "sender": sender, "word": word.word, "outcome": word.reason}
    occasion = f"/{word.run_id}/{word.number}/not-understood"
    await _append_event(session, subject, subject.events.word_refused, word, payload, occasion)


def _refusal(found: ApprovalView, decision: Decision) -> str | None:
    """Why a word cannot be carried out, whatever the subject; None if it can."""
    if not decision.operator.strip():
        return "operator: must not be empty"
    if found.state is not ApprovalState.pending:
        return f"already decided: {found.outcome}"
    if decision.at >= found.deadline:
        return f"expired: the deadline was {found.deadline:%Y-%m-%d %H:%M:%S} UTC"
    return None


async def _refuse(
    session: AsyncSession, subject: Subject, found: ApprovalView, decision: Decision, said: Said, reason: str
) -> None:
    occasion = f"/{decision.verdict}/{decision.operator}/{decision.at.isoformat()}"
    if said.record is not None and said.said_in is not None:
        occasion += f"/{said.said_in.name}"  # a record may be named again and again, each time is told
    payload = decision.model_dump(mode="json") | {"outcome": reason}
    await _append_event(session, subject, subject.events.word_refused, found, payload, occasion)


async def _expire(session: AsyncSession, subject: Subject, found: ApprovalView) -> ApprovalAnswer:
    if found.state is not ApprovalState.pending:
        expired = found.state is ApprovalState.expired
        return ApprovalAnswer(accepted=expired, state=found.state, reason=found.outcome or found.state)
    changed = await subject.settle(session, found, None)
    nobody = {"verdict": None, "operator": "", "note": "", "at": found.deadline.isoformat()}
    payload = nobody | {"outcome": changed.sentence, **changed.details}
    await _append_event(session, subject, subject.events.expired, found, payload)
    return ApprovalAnswer(accepted=True, state=ApprovalState.expired, reason=changed.sentence)


async def _append_event(
    session: AsyncSession,
    subject: Subject,
    event: EventType,
    key: ApprovalKey,
    payload: Mapping[str, Any],
    occasion: str = "",
) -> None:
    """Append an event of a proposal. The same type, proposal and ``occasion`` a second time append nothing."""
    fields = subject.events.proposal_fields(key) | dict(payload)
    await store.events.append(session, (event, key.workflow_id + occasion, fields))


# -- starting the workflow that waits, and sending it decisions --------------------------------------------------------


def approval_launch(found: ApprovalView) -> Launch:
    """The workflow that waits for the operator, of a subject that has none of its own."""
    return approval(ApprovalRequest.model_validate(found.model_dump(include=set(ApprovalRequest.model_fields))))


async def start_waiting(client: Client, launch: Launch) -> bool:
    """Start the workflow that waits for an operator; False if one of this id runs, or has run, already."""
    try:
        await start(client, launch)
    except WorkflowAlreadyStartedError:
        return False
    return True


async def should_run(session: AsyncSession, subject: Subject) -> list[Launch]:
    """The workflows of a subject that listen to operators, by the record: of what waits, and of what is watched."""
    waits = [await subject.launch(session, found) for found in await subject.waiting(session, WaitingPage())]
    return waits + await subject.watched(session)


async def tell_decision(client: Client, sessions: Sessions, subject: Subject, made: DecisionRecord) -> None:
    """Tell a workflow, by signal, a decision that is on record; refuse it where it can change nothing any more.

    Raises NotOnRecord, RPCError.
    """
    async with sessions.begin() as session:
        found = await find(session, subject, made)
        launch = await subject.launch(session, found)
        heard = {watched.id for watched in await subject.watched(session)} if made.verdict == REVERT else set()
        if found.state is not ApprovalState.pending and launch.id not in heard:
            outcome = f"already decided: {found.outcome}"
            await store.operator_decisions.spend(session, made.decision_id, None, None, False, outcome)
            payload = made.model_dump(mode="json", include={"verdict", "operator", "note"}) | {"outcome": outcome}
            await _append_event(session, subject, subject.events.word_refused, found, payload, f"/{made.decision_id}")
            return
    await start_waiting(client, launch)
    word = {"operator": made.operator, "note": made.note, "record": made.decision_id}
    await client.get_workflow_handle(found.waits_in or launch.id).signal(made.verdict, word)


async def send_decision(
    client: Client,
    sessions: Sessions,
    subjects: Subjects,
    key: ApprovalKey,
    verdict: ApprovalVerdict,
    operator: str,
    note: str,
    secret: str | None = None,
    seen: str | None = None,
) -> ApprovalAnswer:
    """Send an operator's decision to the workflow that waits for it, and wait for the answer.

    ``seen``: the hash of what the operator saw proposed; with another one nothing is decided. Raises ChangedSince then.

    With the ``secret`` of a token, the decision is recorded first, under the token's name, and the workflow is told
    which record it is. If this process then dies, the decision is carried out all the same, within minutes.
    A decision on a proposal that is decided, expired or withdrawn is refused, and an event says so. Raises NotOnRecord,
    NotAuthenticated, NotAllowed; RunFailed where the workflow does not answer.
    """
    subject = subject_of(subjects, key)
    async with sessions() as session:
        found = await find(session, subject, key)
        if seen is not None and seen != hash_of_proposal(found):
            raise ChangedSince("What is proposed has changed since you looked at it: look at it again.")
        launch = await subject.launch(session, found)
        word = {"verdict": verdict, "operator": operator, "note": note}
        if secret is not None:
            made = await record(session, key, verdict, operator=operator, note=note, secret=secret, proposal=found)
            word |= {"operator": made.operator, "record": made.decision_id}
    if found.state is ApprovalState.pending:
        if answer := await send_update(client, found.waits_in or key.workflow_id, word):
            return answer
        # The worker died between proposing and starting the workflow, or somebody terminated the workflow: start it.
        await start_waiting(client, launch)
        if answer := await send_update(client, launch.id, word):
            return answer
    return await refuse_late_word(sessions, subject, key, word)


async def refuse_late_word(
    sessions: Sessions, subject: Subject, key: ApprovalKey, word: Mapping[str, str]
) -> ApprovalAnswer:
    """Refuse a word for a proposal whose workflow has ended, and append the event that says so. Commits.

    A decision on record that the word names is spent.

    Raises RunFailed where the proposal still waits on record although its workflow has ended.
    """
    async with sessions.begin() as session:
        found = await find(session, subject, key)
        if found.state is ApprovalState.pending:
            raise RunFailed(
                f"The workflow {key.workflow_id} has ended, although the proposal waits: send the decision again."
            )
        reason = f"already decided: {found.outcome}"
        payload = {
            "verdict": word["verdict"],
            "operator": word["operator"][:200],
            "note": word["note"][:4000],
            "outcome": reason,
        }
        if "record" in word:
            await store.operator_decisions.spend(session, word["record"], None, None, False, reason)
        await _append_event(session, subject, subject.events.word_refused, found, payload, f"/{uuid.uuid4().hex}")
    return ApprovalAnswer(accepted=False, state=found.state, reason=reason)


async def send_update(client: Client, workflow_id: str, word: Mapping[str, str]) -> ApprovalAnswer | None:
    """A workflow's answer to an operator's word; None if no workflow of this id runs. Raises RunFailed."""
    try:
        answer: ApprovalAnswer = await client.get_workflow_handle(workflow_id).execute_update(
            "decide", word, result_type=ApprovalAnswer
        )
    except WorkflowUpdateFailedError as error:
        raise RunFailed(f"The workflow {workflow_id} did not answer: {error.cause}.") from None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return answer
