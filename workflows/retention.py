"""Once a day rows that are old enough leave the database, a batch at a time."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from closeloop.workflows.books import reason_of
from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.due_work import work_done
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_NEXT_RUN

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.retention import RetentionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.periods import PeriodicTask
    from closeloop.models.retention import (
        LEAVING_BEFORE_LEVERS,
        Leaving,
        LeavingBatch,
        LeftBatch,
        RetentionReport,
        RetentionRequest,
    )

LONGEST_BATCH = timedelta(minutes=5)
BATCHES_A_RUN = 500  # after which the workflow goes on with a new history


@workflow.defn(name="RetentionWorkflow")
class RetentionWorkflow:
    """Let old events, old lines of lesson history and old levers leave, as the policy of the worker says.

    Runs as the work of a day (due_work.py). A table that fails holds up no other; its rows stay, ``status`` says why,
    and the next day's run tries again.
    """

    @workflow.run
    async def run(self, message: RetentionRequest | None = None) -> RetentionReport:
        """See the class."""
        request = expect(message, RetentionRequest)
        as_of = request.as_of or scheduled_time()
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("retention")])
        report, done, batches = request.so_far or RetentionReport(as_of=as_of), list(request.done), 0
        for table in Leaving if workflow.patched("levers-leave") else LEAVING_BEFORE_LEVERS:
            if table in done:
                continue
            try:
                while (await self._next(table, report)).more:
                    batches += 1
                    if batches >= BATCHES_A_RUN or workflow.info().is_continue_as_new_suggested():
                        going_on = request.model_copy(update={"as_of": as_of, "so_far": report, "done": done})
                        workflow.continue_as_new(going_on)
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                report.fail(table, reason_of(error))
            done.append(table)
        if request.by_schedule:
            await work_done(PeriodicTask.retention, as_of)
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _next(self, table: Leaving, report: RetentionReport) -> LeftBatch:
        batch = await workflow.execute_activity_method(
            RetentionActivities.let_leave,
            LeavingBatch(table=table, as_of=report.as_of),
            start_to_close_timeout=LONGEST_BATCH,
            retry_policy=UNTIL_NEXT_RUN,
            summary=f"Let old rows of {table} leave",
        )
        report.add(table, batch)
        return batch
