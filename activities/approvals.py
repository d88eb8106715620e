"""Activities of everything that waits for an operator: decide, remind, and keep the trail (services/approvals.py)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import on_record
from closeloop.activities.senders import sender_of, senders_of
from closeloop.activities.transactions import transaction
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalState,
    RecordApproval,
    RefusedApproval,
    RefusedWords,
    SignalTimeRequest,
    StartedAgain,
)
from closeloop.models.errors import NotOnRecord
from closeloop.models.policy import ApprovalsPolicy
from closeloop.services import approvals
from closeloop.services.approvals import Subject, Subjects
from closeloop.store.database import Sessions

NAMED = 20  # at most, in a report
TOLD_AT_ONCE = 100
TOLD_AFTER = timedelta(minutes=1)  # a door that lives has told its decision by then
UNKNOWN = "ApprovalUnknown"
"""The type of the error where something was never proposed."""


class ApprovalActivities:
    """Decides on what waits, exactly once."""

    def __init__(self, sessions: Sessions, subjects: Subjects, client: Client, policy: ApprovalsPolicy) -> None:
        self._sessions = sessions
        self._policy = policy
        self._subjects = subjects
        self._client = client

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [
            self.decide,
            self.standing,
            self.remind,
            self.refuse_word,
            self.refuse_words,
            self.when_signalled,
            self.start_what_waits,
        ]

    @activity.defn(name="decide_approval")
    async def decide(self, record: RecordApproval) -> ApprovalAnswer:
        """Carry out an operator's decision, or the expiry at the deadline; or answer why not.

        The answer is on record: a retry returns the same one.
        """
        sender = await sender_of(self._client, record.said_in)
        async with self._about(record) as (session, subject):
            return await approvals.decide(
                session,
                subject,
                record,
                sender=sender,
                require_token=self._policy.require_token,
                four_eyes=self._policy.four_eyes,
            )

    @activity.defn(name="standing_of_approval")
    async def standing(self, key: ApprovalKey) -> ApprovalState:
        """The state of the proposal on record."""
        async with self._about(key) as (session, subject):
            await subject.hold(session, key)  # a decision that is being carried out is waited for
            return (await approvals.find(session, subject, key)).state

    @activity.defn(name="remind_of_approval")
    async def remind(self, key: ApprovalKey) -> None:
        """Append the reminder event of a proposal, of which half of the time to decide has passed."""
        async with self._about(key) as (session, subject):
            found = await approvals.remind(session, subject, key)
        if found.state is ApprovalState.pending:
            activity.logger.warning("something waits for an operator", extra={"approval": key.workflow_id})

    @activity.defn(name="refuse_approval_word")
    async def refuse_word(self, word: RefusedApproval) -> None:
        """Record a signal or update that could not be understood."""
        sender = await sender_of(self._client, word.said_in)
        async with self._about(word) as (session, subject):
            await approvals.refuse_word(session, subject, word, sender)

    @activity.defn(name="refuse_approval_words")
    async def refuse_words(self, refused: RefusedWords) -> None:
        """Record signals that could not be understood, together."""
        senders = await senders_of(self._client, [word.said_in for word in refused.words])
        async with self._about(refused) as (session, subject):
            for word, sender in zip(refused.words, senders, strict=True):
                await approvals.refuse_word(session, subject, word, sender)

    @activity.defn(name="when_signalled")
    async def when_signalled(self, request: SignalTimeRequest) -> datetime | None:
        """When the n-th signal (from 0) of a name reached the server, by its history; None if there was none."""
        number = 0
        handle = self._client.get_workflow_handle(request.workflow_id, run_id=request.run_id)
        async for event in handle.fetch_history_events():
            # An event of another kind has an empty name here.
            if event.workflow_execution_signaled_event_attributes.signal_name == request.name:
                if number == request.number:
                    return event.event_time.ToDatetime(tzinfo=UTC)
                number += 1
        return None

    @activity.defn(name="start_what_waits")
    async def start_what_waits(self) -> StartedAgain:
        """Start the workflow of everything that waits or is watched by the record and has none that runs.

        Somebody terminated or cancelled it, or a worker died before it could start it. Each on its own.
        """
        report = StartedAgain()
        for subject in self._subjects:
            async with transaction(self._sessions) as session:
                launches = await approvals.should_run(session, subject)
            for launch in launches:
                try:
                    async with on_record(self._sessions, "decision", launch.id):
                        started = await approvals.start_waiting(self._client, launch)
                except RPCError as error:
                    if len(report.failed) < NAMED:
                        report.failed[launch.id] = error.message[:300]
                    continue
                if started:
                    report.started += 1
                    report.names += [launch.id] if len(report.names) < NAMED else []
                activity.heartbeat(launch.id)
        await self._tell_decisions(report)
        return report

    async def _tell_decisions(self, report: StartedAgain) -> None:
        """Tell workflows the decisions on record that they were not told: the door died after it had recorded them."""
        async with transaction(self._sessions) as session:
            untold = await store.operator_decisions.unspent(session, TOLD_AT_ONCE, older_than=TOLD_AFTER)
        for made in untold:
            activity.heartbeat(made.decision_id)
            try:
                subject = approvals.subject_of(self._subjects, made)
                async with on_record(self._sessions, "decision", made.workflow_id):
                    await approvals.tell_decision(self._client, self._sessions, subject, made)
            except (RPCError, NotOnRecord) as error:
                if len(report.failed) < NAMED:
                    report.failed[made.workflow_id] = str(error)[:300]

    @asynccontextmanager
    async def _about(self, key: ApprovalKey) -> AsyncIterator[tuple[AsyncSession, Subject]]:
        """A transaction, and the subject of ``key``. Raises a non-retryable error for what was never proposed."""
        try:
            async with transaction(self._sessions) as session:
                yield session, approvals.subject_of(self._subjects, key)
        except NotOnRecord as error:
            raise ApplicationError(str(error), type=UNKNOWN, non_retryable=True) from None
