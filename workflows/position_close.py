"""A position closes: it is attributed and learned from, once."""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue, SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from closeloop.workflows.messages import expect
from closeloop.workflows.retries import ONCE, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.learners import LearnerActivities
    from closeloop.activities.positions import PositionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.closes import read_close
    from closeloop.models.convictions import RecordedConviction
    from closeloop.models.positions import (
        AttributedClose,
        ClosedPosition,
        CloseReport,
        LearnReport,
        LearnRequest,
        PositionOutcome,
    )
    from closeloop.models.sentences import closing_line, opening_line, short

# A worker that is killed during an attempt is noticed when this has passed. There is no limit to the attempts: a
# database that is down for a day is waited for.
LONGEST_ATTEMPT = timedelta(seconds=15)
# For workflows that 0.1 began: a learner that failed is run again at most so many times, after pauses from the first to
# the second length.
LEARNER_ROUNDS = 10
LEARNER_PAUSE = timedelta(seconds=2)
LEARNER_PAUSE_MAX = timedelta(minutes=10)
MEMO_CHARACTERS = 2_000  # of the reasons in the memo; the server limits its size


_NOTHING = RawValue(Payload())  # what a workflow without an argument was started with


@workflow.defn(name="PositionCloseWorkflow")
class PositionCloseWorkflow:
    """Attribute a closed position and learn from it, then publish what came out.

    1. *Attribute and learn*: the close, its attribution, karma, events and what the learners made of it in one
       transaction; safe to repeat. A learner that fails never undoes the attribution: what it missed is on record, and
       the catch-up of every five minutes tells it again.
    2. *Publish*: memo and search attributes, readable in the Temporal UI when no worker runs.
    """

    @workflow.run
    async def run(self, message: RawValue = _NOTHING) -> CloseReport:
        """See the class. The message is a ClosedPosition, of which a bad optional field is left out and noted."""
        position = _position(message)
        attributed = await self._attribute(position)
        sentence = closing_line(attributed.outcome, attributed.karma)
        self._publish(attributed.outcome, sentence)
        if attributed.learning is None:
            learned = await self._learn_afterwards(position, attributed)
        else:
            learned = attributed.learning
        if learned.failed:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in learned.failed.items())
            workflow.upsert_memo({"not_learned": reasons[:MEMO_CHARACTERS]})
        noted = [*position.noted, *attributed.noted]
        if noted:
            reasons = ", ".join(f"{note.field}: {note.reason}" for note in noted)
            workflow.upsert_memo({"noted": reasons[:MEMO_CHARACTERS]})
        return CloseReport(
            outcome=attributed.outcome,
            already_attributed=attributed.already_attributed,
            karma=attributed.karma,
            learned=learned.learned,
            not_learned=learned.failed,
            noted=noted,
            sentence=sentence,
        )

    async def _attribute(self, position: ClosedPosition) -> AttributedClose:
        try:
            return await self._attribute_at_once(position)
        except FailureError as error:
            # What a local activity raised comes bare or within an ActivityError, and not always alike on replay.
            cause = error.cause if isinstance(error, ActivityError) else error
            if is_cancelled_exception(error):
                raise
            if isinstance(cause, ApplicationError) and cause.non_retryable:
                raise cause from None  # the workflow fails with the typed error itself
        return await self._attribute_patiently(position)

    async def _attribute_at_once(self, position: ClosedPosition) -> AttributedClose:
        """As a local activity, within the workflow task: a close then costs the server nearly half."""
        return await workflow.execute_local_activity_method(
            PositionActivities.attribute_close,
            position,
            start_to_close_timeout=LONGEST_ATTEMPT,
            retry_policy=ONCE,
            summary=opening_line(position),
        )

    async def _attribute_patiently(self, position: ClosedPosition) -> AttributedClose:
        """As an ordinary activity: the Temporal UI shows its attempts, and no worker is occupied between them."""
        try:
            return await workflow.execute_activity_method(
                PositionActivities.attribute_close,
                position,
                start_to_close_timeout=LONGEST_ATTEMPT,
                retry_policy=UNTIL_DONE,
                summary=opening_line(position),
            )
        except ActivityError as error:
            raise error.cause or error from None

    def _publish(self, outcome: PositionOutcome, sentence: str) -> None:
        known = workflow.info().typed_search_attributes
        updates: list[SearchAttributeUpdate[Any]] = []
        # An engine that starts the workflow by name need not set the search attributes: they are set here.
        if known.get(sa.BOOK) is None:
            updates += [
                sa.LIFECYCLE.value_set("position"),
                sa.BOOK.value_set(outcome.book),
                sa.SYMBOL.value_set(outcome.symbol),
                sa.DIRECTION.value_set(outcome.direction),
                sa.PRODUCERS.value_set(sa.fitting(outcome.producers)),
                sa.CLOSED_AT.value_set(outcome.closed_at),
            ]
        if outcome.rr is not None:
            updates.append(sa.R_MULTIPLE.value_set(outcome.rr))
        if updates:
            workflow.upsert_search_attributes(updates)
        workflow.upsert_memo({"outcome": sentence})

    async def _learn_afterwards(self, position: ClosedPosition, attributed: AttributedClose) -> LearnReport:
        """For closes that 0.1 attributed: run the learners that its activity named, in activities of their own."""
        report = LearnReport()
        pause = LEARNER_PAUSE
        pending = attributed.learners
        if attributed.learn_at_once and pending:
            report = await self._learn_at_once(position, pending)
            pending = [name for name in pending if name not in report.learned]
        for _ in range(LEARNER_ROUNDS):
            if not pending:
                return report
            if report.failed:
                await workflow.sleep(pause, summary=f"before {', '.join(pending)} try again")
                pause = min(2 * pause, LEARNER_PAUSE_MAX)
            round_report = await workflow.execute_activity_method(
                LearnerActivities.learn,
                LearnRequest(position=position.key, learners=pending),
                start_to_close_timeout=timedelta(seconds=60),
                retry_policy=UNTIL_DONE,
                summary=f"Learn: {', '.join(pending)}",
            )
            report.learned += round_report.learned
            report.failed = round_report.failed
            pending = list(round_report.failed)
        return report

    async def _learn_at_once(self, position: ClosedPosition, learners: list[str]) -> LearnReport:
        """Within the workflow task, as the attribution was."""
        try:
            return await workflow.execute_local_activity_method(
                LearnerActivities.learn,
                LearnRequest(position=position.key, learners=learners),
                start_to_close_timeout=LONGEST_ATTEMPT,
                retry_policy=ONCE,
                summary=f"Learn: {', '.join(learners)}",
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            return LearnReport()  # the ordinary activity that follows tries again and reports why


def _position(message: RawValue) -> ClosedPosition:
    """The close that the workflow was started with. Raises a non-retryable error where it is none."""
    payload = message.payload
    if payload.metadata.get("encoding") != b"json/plain":
        return expect(None, ClosedPosition)
    read = read_close(payload.data)
    if read.position is None:
        raise ApplicationError(read.reason, type="ValidationError", non_retryable=True)
    return read.position


@workflow.defn(name="ConvictionWorkflow")
class ConvictionWorkflow:
    """Record a conviction ahead of its position, so that the close need only name its id."""

    @workflow.run
    async def run(self, message: RecordedConviction | None = None) -> bool:
        """True if it was new; False if one with this id was on record, which stands."""
        conviction = expect(message, RecordedConviction)
        return await workflow.execute_activity_method(
            PositionActivities.record_conviction,
            conviction,
            start_to_close_timeout=LONGEST_ATTEMPT,
            retry_policy=UNTIL_DONE,
            summary=short(f"Record conviction {conviction.conviction_id} of {conviction.symbol}"),
        )
