"""Work of a period is looked for whenever the stack is awake, and done once, as of the period's beginning."""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import LONGEST_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.periods import PeriodicActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.launches import periodic_work
    from closeloop.models.periods import DueAnswer, DueQuestion, DueWorkReport, DueWorkRequest, PeriodicTask, WorkDone
    from closeloop.models.schedules import DISPATCH_EVERY, DISPATCH_OFFSET


@workflow.defn(name="DueWorkWorkflow")
class DueWorkWorkflow:
    """Ask the database whether the work of the period that has begun is due, and start it under the period's name.

    Runs every quarter of an hour. A machine that was off at the beginning of a period does the work once it is on, as
    of the beginning. Of periods that passed meanwhile only the latest has its work done: it takes in all that the
    earlier ones would have. Somebody who triggers the schedule by hand has it done now.
    """

    @workflow.run
    async def run(self, message: DueWorkRequest | None = None) -> DueWorkReport:
        """See the class."""
        request = expect(message, DueWorkRequest)
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set(str(request.task))])
        due = await workflow.execute_activity_method(
            PeriodicActivities.work_due,
            DueQuestion(task=request.task, at=scheduled_time(), by_hand=by_hand()),
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary=f"Is the work on {request.task} due?",
        )
        report = DueWorkReport(task=request.task)
        if due.as_of is None:
            workflow.upsert_memo({"outcome": f"nothing is due: done as of {due.done:%Y-%m-%d %H:%M} UTC"})
            return report
        return await self._do(report, due)

    async def _do(self, report: DueWorkReport, due: DueAnswer) -> DueWorkReport:
        assert due.as_of is not None, "it is due"
        launch = periodic_work(report.task, due.as_of)
        try:
            work = await workflow.start_child_workflow(
                launch.workflow,
                launch.message,
                id=launch.id,
                id_reuse_policy=launch.reuse,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=launch.summary,
                search_attributes=launch.attributes,
            )
        except WorkflowAlreadyStartedError:
            workflow.upsert_memo({"outcome": f"{launch.id} runs already, or is done"})
            return report
        workflow.upsert_memo({"outcome": f"started {launch.id}"})
        try:
            await work  # the schedule starts no other look meanwhile, so that two periods' work never overlaps
        except ChildWorkflowError as error:
            if is_cancelled_exception(error):
                raise
            workflow.upsert_memo({"outcome": f"{launch.id} failed: it is due at the next look again"})
        return report.model_copy(update={"as_of": due.as_of, "workflow_id": launch.id})


async def work_done(task: PeriodicTask, as_of: datetime) -> None:
    """Put on record that this workflow has done the work of a period."""
    await workflow.execute_activity_method(
        PeriodicActivities.work_done,
        WorkDone(task=task, as_of=as_of, workflow_id=workflow.info().workflow_id),
        start_to_close_timeout=LONGEST_TRANSACTION,
        retry_policy=UNTIL_DONE,
        summary=f"The work on {task} is done for this period",
    )


def by_hand() -> bool:
    """Whether somebody started this run, by its name or by triggering its schedule, at no time of the schedule."""
    at = scheduled_time()
    into_the_hour = at - at.replace(minute=0, second=0, microsecond=0)
    return (into_the_hour - DISPATCH_OFFSET) % DISPATCH_EVERY != timedelta(0)
