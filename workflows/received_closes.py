"""Closes that came in numbers by the HTTP door are attributed together, as an import's are."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.positions import PositionActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.positions import ReceivedReport, ReceivedRequest

ROUNDS_A_RUN = 200


@workflow.defn(name="ReceivedClosesWorkflow")
class ReceivedClosesWorkflow:
    """Attribute what was received until nothing is left and nobody said that more came.

    A close that comes alone has a workflow of its own (PositionCloseWorkflow). Of thousands, one each would take the
    server minutes: these are attributed in chunks, each a transaction, exactly once all the same.
    """

    def __init__(self) -> None:
        self._more = True

    @workflow.signal
    def more(self) -> None:
        """Closes were committed that the round under way may have missed."""
        self._more = True

    @workflow.run
    async def run(self, message: ReceivedRequest | None = None) -> ReceivedReport:
        """See the class."""
        done = expect(message, ReceivedRequest)
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("received-closes")])
        report = ReceivedReport(attributed=done.attributed, refused=done.refused)
        for _ in range(ROUNDS_A_RUN):
            if not self._more:
                break
            self._more = False
            found = await workflow.execute_activity_method(
                PositionActivities.attribute_received,
                start_to_close_timeout=timedelta(hours=2),
                heartbeat_timeout=timedelta(seconds=60),
                retry_policy=UNTIL_DONE,
                summary="Attribute received closes",
            )
            report.attributed += found.attributed
            report.refused += found.refused
        if self._more:
            workflow.continue_as_new(ReceivedRequest(attributed=report.attributed, refused=report.refused))
        outcome = f"{report.attributed} closes attributed"
        if report.refused:
            outcome += f", {report.refused} refused ('closeloop positions unreadable' lists them)"
        workflow.upsert_memo({"outcome": outcome})
        return report
