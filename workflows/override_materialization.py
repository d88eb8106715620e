"""Overrides follow the lessons every two hours."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import A_TRANSACTION, ONE_BOOK

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.lessons import LessonActivities
    from closeloop.activities.overrides import OverrideActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.overrides import MaterializeOverrides, OverrideReport, OverrideRequest

# A database that is away is waited for; a defect is not repeated for ever: the next run is soon.
A_BOOK = timedelta(minutes=10)
SILENCE = timedelta(minutes=1)


@workflow.defn(name="OverrideMaterializationWorkflow")
class OverrideMaterializationWorkflow:
    """Make overrides of lessons that can be acted on, close those that ended, ask operators about the large ones.

    Runs from a schedule (of every book, as of the scheduled time) and from ``closeloop overrides materialize``.
    """

    @workflow.run
    async def run(self, message: OverrideRequest | None = None) -> OverrideReport:
        """See the class."""
        request = expect(message, OverrideRequest)
        as_of = request.as_of or scheduled_time()
        report = OverrideReport()
        for book in [request.book] if request.book else await self._books():
            try:
                made = await workflow.execute_activity_method(
                    OverrideActivities.materialize,
                    MaterializeOverrides(book=book, as_of=as_of),
                    start_to_close_timeout=A_BOOK,
                    heartbeat_timeout=SILENCE,
                    retry_policy=ONE_BOOK,
                    summary=f"Bring the overrides of {book} in line with its lessons",
                )
            except ActivityError as error:
                if request.book:
                    raise error.cause or error from None
                cause = error.cause
                report.failed[book] = cause.message if isinstance(cause, ApplicationError) else str(cause)
            else:
                report.books.append(made)
        self._publish(request, report)
        return report

    async def _books(self) -> list[str]:
        found = await workflow.execute_activity_method(
            LessonActivities.books,
            start_to_close_timeout=A_TRANSACTION,
            retry_policy=ONE_BOOK,
            summary="Which books have lessons?",
        )
        return found.books

    def _publish(self, request: OverrideRequest, report: OverrideReport) -> None:
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set("overrides"), *([sa.BOOK.value_set(request.book)] if request.book else [])]
        )
        told = [made.sentence for made in report.books] + [f"{b}: {why}" for b, why in report.failed.items()]
        workflow.upsert_memo({"outcome": "; ".join(told)[:2000] or "no book has lessons"})
