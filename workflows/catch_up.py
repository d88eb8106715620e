"""Closes that are on record without an attribution get their workflow, and learners take in what they missed."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.backfill import learn_missed
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import FIVE_ATTEMPTS

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.positions import PositionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.patterns import LearnMissed
    from closeloop.models.positions import CatchUpReport, CatchUpRequest


@workflow.defn(name="CatchUpWorkflow")
class CatchUpWorkflow:
    """Find closed positions without an attribution (an engine may write rows and die) and start their workflows.

    The same activity completes closes whose conviction came after them. Then let the learners take in the closes that
    they failed on.
    """

    @workflow.run
    async def run(self, message: CatchUpRequest | None = None) -> CatchUpReport:
        """See the class. Runs from a schedule; what one run leaves, the next one finds."""
        request = expect(message, CatchUpRequest)
        report = await workflow.execute_activity_method(
            PositionActivities.start_unattributed,
            request,
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(seconds=60),
            retry_policy=FIVE_ATTEMPTS,
            summary="Look for closes without an attribution",
        )
        outcome = f"{report.started} closes started, {report.unattributable} rows are not readable as closes"
        if report.together:
            outcome = f"closes are many and attributed together, {report.unattributable} rows are not readable"
        if report.imports:
            outcome += f", {report.imports} imports started that were left behind"
        if report.completed:
            outcome += f"; {report.completed} closes completed by a conviction that came after them"
        if workflow.patched("learn-missed"):
            missed = await learn_missed(LearnMissed(), FIVE_ATTEMPTS)
            outcome += (
                f"; missed and learned: {', '.join(f'{n} {name}' for name, n in missed.learned.items()) or 'nothing'}"
            )
            if missed.failed:
                outcome += f"; not learned: {', '.join(f'{name} ({why})' for name, why in missed.failed.items())}"
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("catch-up")])
        workflow.upsert_memo({"outcome": outcome[:2000]})
        return report
