"""Activities of the position lifecycle."""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.attribution import RefusedClose, attribute_and_learn
from closeloop.activities.books import on_record
from closeloop.activities.learners import Learner
from closeloop.activities.transactions import transaction
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import (
    AttributedClose,
    CatchUpReport,
    CatchUpRequest,
    ClosedPosition,
    PositionKey,
    RecordedConviction,
)
from closeloop.services import imports
from closeloop.services.imports import STAGING_KEPT_HOURS
from closeloop.services.positions import start_close
from closeloop.store.database import Sessions
from closeloop.store.positions import UnattributedRow

CATCH_UP_PAGE_ROWS = 200  # positions without an attribution that are read at once
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
        return [self.attribute_close, self.record_conviction, self.start_unattributed]

    @activity.defn(name="attribute_close")
    async def attribute_close(self, position: ClosedPosition) -> AttributedClose:
        """Record and attribute one close and let the learners take it in, in one transaction."""
        started = time.perf_counter()
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            [answer], learning = await attribute_and_learn(
                session, [position], self._policy, datetime.now(UTC), run, self._learners
            )
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
        """Record a conviction ahead of its position; False if it was on record (the first recording stands)."""
        async with transaction(self._sessions) as session:
            return await store.convictions.record_ahead(session, [conviction]) == 1

    @activity.defn(name="start_unattributed")
    async def start_unattributed(self, request: CatchUpRequest) -> CatchUpReport:
        """Start the workflow of every closed position on record that has no attribution, the oldest first."""
        report = CatchUpReport()
        last: UnattributedRow | None = None
        async with transaction(self._sessions) as session:
            oldest = await store.positions.oldest_unattributed(session)
            await store.imports.drop_older_than(session, IMPORTS_KEPT_DAYS)
            await store.imports.drop_abandoned(session, STAGING_KEPT_HOURS)
        age = 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())
        activity.metric_meter().create_gauge_float(
            "closeloop_oldest_unattributed_seconds", "Age of the oldest close without an attribution", "s"
        ).set(age)
        async with transaction(self._sessions) as session:
            impossible = await store.positions.impossible(session)
        for key in impossible:
            reason = "opened_at, closed_at: must be times between the years 1800 and 9999"
            await self._report_unattributable(key, reason)
            report.unattributable += 1
        while report.started < request.limit:
            page = min(CATCH_UP_PAGE_ROWS, request.limit - report.started)
            async with transaction(self._sessions) as session:
                rows = await store.positions.unattributed(session, last, page)
            if not rows:
                break
            for row in rows:
                last = row
                if row.position is None:
                    await self._report_unattributable(row.key, row.reason)
                    report.unattributable += 1
                    continue
                try:
                    await start_close(self._client, row.position)
                    report.started += 1
                except WorkflowAlreadyStartedError:
                    report.running_already += 1
                except RPCError as error:
                    if error.status != RPCStatusCode.INVALID_ARGUMENT:
                        raise
                    await self._report_unattributable(row.key, error.message[:300])
                    report.unattributable += 1
            activity.heartbeat(report)
        report.imports = await self._start_imports()
        return report

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

    async def _report_unattributable(self, key: PositionKey, reason: str) -> None:
        book, position_id = key
        activity.logger.warning("unattributable position", extra={"book": book, "position": position_id})
        # A row that an engine wrote may have a key of any length, and the index of the dedupe key has a limit.
        about = hashlib.sha256(f"{book}/{position_id}/{reason}".encode()).hexdigest()
        payload = {"book": book, "position_id": position_id, "reason": reason}
        async with transaction(self._sessions) as session:
            event = (EventType.position_unattributable, about, payload)
            await store.events.append(session, event)
