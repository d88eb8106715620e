"""Once an hour what became of the market after decisions is filled in."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_NEXT_RUN

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.decisions import DecisionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.decisions import FillReport, FillRequest


@workflow.defn(name="DecisionOutcomesWorkflow")
class DecisionOutcomesWorkflow:
    """Fill in returns, excursions and exits of every decision that is due, as of the scheduled time."""

    @workflow.run
    async def run(self, message: FillRequest | None = None) -> FillReport:
        """See the class."""
        request = expect(message, FillRequest)
        as_of = request.as_of or scheduled_time()
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("decision-outcomes")])
        report = await workflow.execute_activity_method(
            DecisionActivities.fill_decision_outcomes,
            request.model_copy(update={"as_of": as_of}),
            start_to_close_timeout=timedelta(hours=2),
            heartbeat_timeout=timedelta(seconds=60),
            retry_policy=UNTIL_NEXT_RUN,
            summary="Fill in outcomes of decisions",
        )
        outcome = f"{report.filled} returns of {report.decisions} decisions filled in"
        if report.pending:
            outcome += f"; {report.pending} are due and have no price yet"
        if report.unresolvable:
            outcome += f"; {report.unresolvable} given up for want of a price"
        workflow.upsert_memo({"outcome": outcome})
        return report
