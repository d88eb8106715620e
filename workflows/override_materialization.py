"""Overrides follow the lessons every two hours."""

from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.books import books_with_patterns, reporting, sentences_of
from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import ONE_BOOK

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.overrides import OverrideActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.overrides import MaterializeOverrides, OverrideReport, OverrideRequest

LONGEST_MATERIALIZATION = timedelta(minutes=10)
# A heartbeat follows each question to an operator: a worker that sends none for so long was killed.
WITHOUT_HEARTBEAT = timedelta(minutes=1)


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
        async for book in self._books(request.book):
            with reporting(book, report.failed, asked_for=request.book is not None):
                made = await workflow.execute_activity_method(
                    OverrideActivities.materialize,
                    MaterializeOverrides(book=book, as_of=as_of),
                    start_to_close_timeout=LONGEST_MATERIALIZATION,
                    heartbeat_timeout=WITHOUT_HEARTBEAT,
                    retry_policy=ONE_BOOK,
                    summary=f"Bring the overrides of {book} in line with its lessons",
                )
                report.add(made)
        self._publish(request, report)
        return report

    async def _books(self, asked: str | None) -> AsyncIterator[str]:
        if asked is not None:
            yield asked
            return
        async for book in books_with_patterns("Which books have lessons?"):
            yield book

    def _publish(self, request: OverrideRequest, report: OverrideReport) -> None:
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set("overrides"), *([sa.BOOK.value_set(request.book)] if request.book else [])]
        )
        sentences = [made.sentence for made in report.books] + sentences_of(report.failed)
        workflow.upsert_memo({"outcome": "; ".join(sentences)[:2000] or "no book has lessons"})
