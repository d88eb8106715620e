"""What closes did not say of the market is filled in from the record, a batch of closes at a time."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

from closeloop.workflows.messages import expect
from closeloop.workflows.retries import LONGEST_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.market_contexts import MarketContextActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.market_contexts import (
        FillContexts,
        FilledContexts,
        MarketBackfillReport,
        MarketBackfillRequest,
    )

BATCHES_A_RUN = 500  # after which the workflow goes on with a new history


@workflow.defn(name="MarketBackfillWorkflow")
class MarketBackfillWorkflow:
    """Fill in what a book's closes did not say of the market, by position, until there is none left.

    A run that is ended halfway has done its batches; another one goes on with what is left.
    """

    def __init__(self) -> None:
        self._report = MarketBackfillReport(book="")

    @workflow.query
    def so_far(self) -> MarketBackfillReport:
        """What has become of closes until now."""
        return self._report

    @workflow.run
    async def run(self, message: MarketBackfillRequest | None = None) -> MarketBackfillReport:
        """See the class."""
        request = expect(message, MarketBackfillRequest)
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("market"), sa.BOOK.value_set(request.book)])
        self._report = report = request.so_far or MarketBackfillReport(book=request.book)
        batches = 0
        while (batch := await self._next(report)).closes:
            report.add(batch)
            batches += 1
            if batches >= BATCHES_A_RUN or workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(request.model_copy(update={"so_far": report}))
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _next(self, report: MarketBackfillReport) -> FilledContexts:
        try:
            return await workflow.execute_activity_method(
                MarketContextActivities.fill_contexts,
                FillContexts(book=report.book, after=report.last),
                start_to_close_timeout=LONGEST_TRANSACTION,
                retry_policy=UNTIL_DONE,
                summary=f"Closes of {report.book}" + (f" after {report.last}"[:100] if report.last else ""),
            )
        except ActivityError as error:
            raise error.cause or error from None
