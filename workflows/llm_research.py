"""Once an hour, what closed is read, and the book looked over: by a language model, or by statistics without one."""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

from closeloop.workflows.books import reporting
from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_DONE_SELDOM, UNTIL_MODEL_ANSWERS

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.metered_model import MODEL_BUSY, MODEL_REJECTED
    from closeloop.activities.research import ResearchActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.research import BooksToStudyRequest, BookStudy, ResearchReport, ResearchRequest, Studied

LONGEST_RUN = timedelta(minutes=55)
# A worker that asks sends a heartbeat every three seconds: one that sends none for so long was killed.
WITHOUT_HEARTBEAT = timedelta(seconds=15)
# Errors for which the model refuses one book and would refuse every book: a wrong key, an overload of 55 minutes.
OF_THE_MODEL = (MODEL_REJECTED, MODEL_BUSY)


@workflow.defn(name="LlmResearchWorkflow")
class LlmResearchWorkflow:
    """Study the live closes since the last run, book by book.

    1. *Read*: tags and an observation on each trade (level 1).
    2. *Look over*: a report and hypotheses over recent trades and lessons, each hypothesis tested (level 2).

    Over budget it stops and says so; what is left, the next run finds. A book that cannot be studied is reported and
    holds up no other; a model that refuses every request fails the run. No trade waits for any of it.
    """

    @workflow.run
    async def run(self, message: ResearchRequest | None = None) -> ResearchReport:
        """See the class. ``as_of`` is the time for which the run was scheduled, unless the message says another."""
        request = expect(message, ResearchRequest)
        as_of = request.as_of or scheduled_time()
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("research")])
        report = ResearchReport()
        try:
            for book in [request.book] if request.book else await self._books(BooksToStudyRequest(as_of=as_of)):
                with reporting(book, report.failed, asked_for=request.book is not None, fatal=OF_THE_MODEL):
                    studied = await self._study(BookStudy(book=book, as_of=as_of))
                    report.add(book, studied)
                    if studied.stopped:
                        break  # the budget is one for all books
        except FailureError as error:
            cause = error.cause if isinstance(error, ActivityError) else error
            workflow.upsert_memo({"outcome": f"{report.sentence}; failed: {cause}"[:2000]})
            if isinstance(cause, ApplicationError):
                raise cause from None  # the workflow fails with the typed error itself
            raise
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _books(self, asked: BooksToStudyRequest) -> list[str]:
        due = await workflow.execute_activity_method(
            ResearchActivities.books_to_study,
            asked,
            start_to_close_timeout=timedelta(minutes=1),
            schedule_to_close_timeout=LONGEST_RUN,
            retry_policy=UNTIL_DONE_SELDOM,
            summary="Which books have something to study?",
        )
        return due.books

    async def _study(self, study: BookStudy) -> Studied:
        read = await workflow.execute_activity_method(
            ResearchActivities.read_trades,
            study,
            schedule_to_close_timeout=LONGEST_RUN,
            heartbeat_timeout=WITHOUT_HEARTBEAT,
            retry_policy=UNTIL_MODEL_ANSWERS,
            summary=f"Read what closed in {study.book}",
        )
        if read.stopped:
            return read
        looked = await workflow.execute_activity_method(
            ResearchActivities.look_over,
            study,
            schedule_to_close_timeout=LONGEST_RUN,
            heartbeat_timeout=WITHOUT_HEARTBEAT,
            retry_policy=UNTIL_MODEL_ANSWERS,
            summary=f"Look {study.book} over",
        )
        return read.plus(looked)
