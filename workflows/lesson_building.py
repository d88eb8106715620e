"""Lessons are built every six hours: what a book's trades say of the circumstances in which they were made."""

from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.books import books_with_patterns, reporting, sentences_of
from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.due_work import work_done
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import ONE_BOOK

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.lessons import LessonActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.lessons import BuildLessons, LessonReport, LessonRequest
    from closeloop.models.periods import PeriodicTask

# A worker that mines sends a heartbeat every three seconds: one that sends none for so long was killed.
WITHOUT_HEARTBEAT = timedelta(seconds=15)
LONGEST_BUILD = timedelta(hours=4)


@workflow.defn(name="LessonBuildingWorkflow")
class LessonBuildingWorkflow:
    """Mine the groups of each book that are due and write what came out as the book's next version of lessons.

    Runs as the work of each six hours (due_work.py) of every book, and from ``closeloop lessons build``. A book that
    cannot be built holds up no other.
    """

    @workflow.run
    async def run(self, message: LessonRequest | None = None) -> LessonReport:
        """See the class."""
        request = expect(message, LessonRequest)
        as_of = request.as_of or scheduled_time()
        report = LessonReport()
        async for book in self._books(request.book):
            with reporting(book, report.failed, asked_for=request.book is not None):
                built = await workflow.execute_activity_method(
                    LessonActivities.build,
                    BuildLessons(book=book, as_of=as_of, force=request.force, by_schedule=request.by_schedule),
                    start_to_close_timeout=LONGEST_BUILD,
                    heartbeat_timeout=WITHOUT_HEARTBEAT,
                    retry_policy=ONE_BOOK,
                    summary=f"Build lessons of {book}",
                )
                report.add(built)
        if request.by_schedule:
            await work_done(PeriodicTask.lessons, as_of)
        self._publish(request, report)
        return report

    async def _books(self, asked: str | None) -> AsyncIterator[str]:
        if asked is not None:
            yield asked
            return
        async for book in books_with_patterns("Which books have actions to learn from?"):
            yield book

    def _publish(self, request: LessonRequest, report: LessonReport) -> None:
        workflow.upsert_search_attributes(
            [sa.LIFECYCLE.value_set("lessons"), *([sa.BOOK.value_set(request.book)] if request.book else [])]
        )
        sentences = [built.sentence for built in report.books] + sentences_of(report.failed)
        workflow.upsert_memo({"outcome": "; ".join(sentences)[:2000] or "no book has actions to learn from"})
