"""Activities of the position lifecycle."""

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.attribution import attribute_and_learn
from closeloop.activities.books import check_open, on_record
from closeloop.activities.heartbeats import beating
from closeloop.activities.learners import Learner
from closeloop.activities.transactions import transaction
from closeloop.models.convictions import RecordedConviction
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import (
    BOOK_ARCHIVED,
    AttributedClose,
    CatchUpReport,
    CatchUpRequest,
    ClosedPosition,
    PositionKey,
    ReceivedReport,
)
from closeloop.services import convictions, imports
from closeloop.services.imports import STAGING_KEPT_HOURS
from closeloop.services.positions import start_close, start_received
from closeloop.services.recorded_closes import RefusedClose
from closeloop.store.database import Sessions
from closeloop.store.positions import Cursor, UnattributedRow
from closeloop.store.unreadable import Unreadable

CATCH_UP_PAGE_ROWS = 200  # positions without an attribution that are read at once
CHUNK_ROWS = 1_000  # received closes that are attributed in one transaction
TOGETHER_FROM = 1_000  # so many closes without an attribution get one workflow, which takes them in chunks
EXAMPLES_TOLD = 3  # of the rows that a run found unreadable, in its log
STAGED_AND_LEFT_SECONDS = 300  # the command that staged an import starts it at once, if it lives
IMPORTS_STARTED_AT_ONCE = 100
IMPORTS_KEPT_DAYS = 30  # after which the counts and refusals of an import are deleted


class PositionActivities:
    """Records and attributes closes; starts the workflows of closes on record that have no attribution."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, client: Client, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._policy = policy
        self._client = client
        self._learners = list(learners)

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.attribute_close, self.record_conviction, self.start_unattributed, self.attribute_received]

    @activity.defn(name="attribute_close")
    async def attribute_close(self, position: ClosedPosition) -> AttributedClose:
        """Record and attribute one close and let the learners take it in, in one transaction."""
        started = time.perf_counter()
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            [answer], learning = await attribute_and_learn(
                session, [position], self._policy, datetime.now(UTC), run, self._learners
            )
            if isinstance(answer, RefusedClose) and answer.kind != BOOK_ARCHIVED:
                await self._remember_refused(session, position, answer.reason)
        if isinstance(answer, RefusedClose):
            raise ApplicationError(answer.reason, type=answer.kind, non_retryable=True)
        # If an earlier attempt of this same run committed and died before it answered, the close still counts as new.
        already = answer.already_attributed and answer.outcome.attributed_by != run
        meter = activity.metric_meter().with_additional_attributes({"book": position.book})
        if already:
            meter.create_counter("closeloop_duplicates_refused", "Closes that were attributed already").add(1)
        else:
            meter.create_counter("closeloop_closes_attributed", "Closes attributed").add(1)
        meter.create_histogram_float("closeloop_attribution_seconds", "Time of one attribution", "s").record(
            time.perf_counter() - started
        )
        return answer.model_copy(update={"already_attributed": already, "learning": learning})

    @activity.defn(name="record_conviction")
    async def record_conviction(self, conviction: RecordedConviction) -> bool:
        """Record a conviction and complete closes that wait for it; False if it was on record (the first stands)."""
        async with transaction(self._sessions) as session:
            await check_open(session, conviction.book)
            return (await convictions.record(session, [conviction])).added == 1

    @activity.defn(name="attribute_received")
    async def attribute_received(self) -> ReceivedReport:
        """Attribute the closes on record that have no attribution, a chunk a transaction, the oldest first.

        A row that cannot be read is left to the catch-up, which tells of it. One that is refused, or that the database
        does not take, is remembered as such, and stops no other.
        """
        report = ReceivedReport()
        after: Cursor | None = None
        async with beating():
            while True:
                async with transaction(self._sessions) as session:
                    page = await store.positions.unattributed(session, after, CHUNK_ROWS)
                after = page.after
                positions = [row.position for row in page.rows if row.position is not None]
                read = {row.key: row.content for row in page.rows}
                try:
                    await self._attribute_together(positions, read, report)
                except ApplicationError as error:
                    if not error.non_retryable:
                        raise
                    activity.logger.warning("a chunk is attributed row by row", exc_info=True)
                    for position in positions:
                        await self._attribute_alone(position, read, report)
                if after is None:
                    return report
                activity.heartbeat(report)

    async def _attribute_together(
        self, positions: Sequence[ClosedPosition], read: Mapping[PositionKey, str], report: ReceivedReport
    ) -> None:
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            answers, _ = await attribute_and_learn(
                session, positions, self._policy, datetime.now(UTC), run, self._learners, read
            )
            for position, answer in zip(positions, answers, strict=True):
                if isinstance(answer, RefusedClose) and answer.kind != BOOK_ARCHIVED:
                    await self._remember_refused(session, position, answer.reason)
        refused = sum(isinstance(answer, RefusedClose) for answer in answers)
        new = sum(not answer.already_attributed for answer in answers if isinstance(answer, AttributedClose))
        report.attributed += new
        report.refused += refused
        meter = activity.metric_meter()
        meter.create_counter("closeloop_closes_attributed", "Closes attributed").add(new)

    async def _attribute_alone(
        self, position: ClosedPosition, read: Mapping[PositionKey, str], report: ReceivedReport
    ) -> None:
        try:
            await self._attribute_together([position], read, report)
        except ApplicationError as error:
            if not error.non_retryable:
                raise
            report.refused += 1
            async with transaction(self._sessions) as session:
                await self._remember_refused(session, position, f"it cannot be stored: {error.message}"[:300])

    @activity.defn(name="start_unattributed")
    async def start_unattributed(self, request: CatchUpRequest) -> CatchUpReport:
        """Start the workflow of every closed position on record that has no attribution, the oldest first.

        Closes whose conviction came after them are completed first. A row that cannot be read is told and remembered,
        and not read again until it changes.
        """
        report = CatchUpReport(completed=await self._complete_closes())
        async with transaction(self._sessions) as session:
            await store.unreadable.forget_changed(session)
            oldest = await store.positions.oldest_unattributed(session)
            await store.imports.drop_older_than(session, IMPORTS_KEPT_DAYS)
            await store.imports.drop_abandoned(session, STAGING_KEPT_HOURS)
        age = 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())
        activity.metric_meter().create_gauge_float(
            "closeloop_oldest_unattributed_seconds", "Age of the oldest close without an attribution", "s"
        ).set(age)
        examples: list[str] = []
        while found := await self._impossible():
            report.newly_unattributable += await self._remember(found, examples)
            activity.heartbeat(report)
        waiting: list[tuple[UnattributedRow, ClosedPosition]] = []
        after: Cursor | None = None
        while len(waiting) < TOGETHER_FROM:
            async with transaction(self._sessions) as session:
                rows, after = await store.positions.unattributed(session, after, CATCH_UP_PAGE_ROWS)
            waiting += [(row, row.position) for row in rows if row.position is not None]
            unreadable = [Unreadable(row.key, row.content, row.reason) for row in rows if row.position is None]
            report.newly_unattributable += await self._remember(unreadable, examples)
            activity.heartbeat(report)
            if after is None:
                break
        report.together = len(waiting) >= TOGETHER_FROM
        if report.together:
            await start_received(self._client)
        else:
            for row, position in waiting:
                if report.started >= request.limit:
                    break
                if (refused := await self._start(row, position, report)) is not None:
                    report.newly_unattributable += await self._remember([refused], examples)
                activity.heartbeat(report)
        async with transaction(self._sessions) as session:
            report.unattributable = await store.unreadable.count(session)
        if report.newly_unattributable:
            activity.logger.warning(
                "%d positions on record cannot be read as closes ('closeloop positions unreadable' lists them): %s",
                report.newly_unattributable,
                "; ".join(examples),
            )
        report.imports = await self._start_imports()
        return report

    async def _complete_closes(self) -> int:
        """Complete closes whose conviction was recorded since the last look, page by page; how many they are."""
        async with transaction(self._sessions) as session:
            now, since = await store.late_convictions.next_look(session)
        completed = 0
        while True:
            async with transaction(self._sessions) as session:
                page = await convictions.complete_closes(session, since)
                if page is None:
                    await store.late_convictions.looked(session, now)
                    return completed
            completed += page
            activity.heartbeat(completed)

    async def _start(self, row: UnattributedRow, position: ClosedPosition, report: CatchUpReport) -> Unreadable | None:
        """Start the workflow of a close on record, and count it; why it cannot be, where it cannot."""
        try:
            await start_close(self._client, position)
            report.started += 1
        except WorkflowAlreadyStartedError:
            report.running_already += 1
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            return Unreadable(row.key, row.content, error.message[:300])
        return None

    async def _impossible(self) -> list[Unreadable]:
        async with transaction(self._sessions) as session:
            return await store.positions.impossible(session, CATCH_UP_PAGE_ROWS)

    async def _remember(self, found: Sequence[Unreadable], examples: list[str]) -> int:
        """Remember rows that cannot be read, with an event of each; returns how many are news."""
        if not found:
            return 0
        async with transaction(self._sessions) as session:
            events = [_unattributable(row.key, row.reason) for row in found]
            await store.rows.execute(session, store.events.appending(events))
            new = await store.unreadable.remember(session, found)
        for row in found[: EXAMPLES_TOLD - len(examples)] if new else ():
            examples.append(f"{row.key.book}/{row.key.position_id[:80]} ({row.reason[:120]})")
        return new

    async def _remember_refused(self, session: AsyncSession, position: ClosedPosition, reason: str) -> None:
        """A close that an engine wrote into the database and that is refused as it stands: it would be for ever."""
        content = await store.unreadable.hold(session, position.key)
        if content is None or await store.positions.contradicted(session, {position.key: position}):
            return  # it was sent, or sent with other content than what is on record: the row there may be attributed
        await store.events.append(session, _unattributable(position.key, reason))
        await store.unreadable.remember(session, [Unreadable(position.key, content, reason)])

    async def _start_imports(self) -> int:
        """Start the imports whose commands died between staging and starting them; returns how many."""
        started = 0
        async with transaction(self._sessions) as session:
            found = await store.imports.not_taken_up(session, STAGED_AND_LEFT_SECONDS, IMPORTS_STARTED_AT_ONCE)
        for staged in found:
            with contextlib.suppress(RPCError):  # it is on record, and the next run tries again
                async with on_record(self._sessions, "import", staged.import_id):
                    started += await imports.start_staged(self._client, staged)
        return started


def _unattributable(key: PositionKey, reason: str) -> tuple[EventType, str, dict[str, Any]]:
    """The event of a row that is no close; once for a position and reason."""
    book, position_id = key
    # A row that an engine wrote may have a key of any length, and the index of the dedupe key has a limit.
    about = hashlib.sha256(f"{book}/{position_id}/{reason}".encode()).hexdigest()
    return EventType.position_unattributable, about, {"book": book, "position_id": position_id, "reason": reason}
