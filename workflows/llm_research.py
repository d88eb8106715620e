"""Once an hour, what closed is read, and the book looked over: by a language model, or by statistics without one."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_DONE_SELDOM

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.research import ResearchActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.research import BooksAsked, BookStudy, ResearchReport, ResearchRequest, Studied

# A model that is overloaded is asked less and less often, until the next hour's run.
MODEL = RetryPolicy(initial_interval=timedelta(seconds=5), maximum_interval=timedelta(minutes=10))
A_RUN = timedelta(minutes=55)
SILENCE = timedelta(seconds=15)


@workflow.defn(name="LlmResearchWorkflow")
class LlmResearchWorkflow:
    """Study the live closes since the last run, book by book.

    1. *Read*: tags and an observation on each trade (level 1).
    2. *Look over*: a report and hypotheses over recent trades and lessons, each hypothesis tested (level 2).

    Over budget it stops and says so; what is left, the next run finds. No trade waits for any of it.
    """

    @workflow.run
    async def run(self, message: ResearchRequest | None = None) -> ResearchReport:
        """See the class. ``as_of`` is the time for which the run was scheduled, unless the message says another."""
        request = expect(message, ResearchRequest)
        as_of = request.as_of or scheduled_time()
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("research")])
        report = ResearchReport()
        try:
            for book in [request.book] if request.book else await self._books(BooksAsked(as_of=as_of)):
                report.books[book] = await self._study(BookStudy(book=book, as_of=as_of))
                if report.books[book].stopped:
                    break  # the budget is one for all books
        except ActivityError as error:
            workflow.upsert_memo({"outcome": f"{report.sentence}; failed: {error.cause}"[:2000]})
            if isinstance(error.cause, ApplicationError):
                raise error.cause from None  # the workflow fails with the typed error itself
            raise
        workflow.upsert_memo({"outcome": report.sentence[:2000]})
        return report

    async def _books(self, asked: BooksAsked) -> list[str]:
        due = await workflow.execute_activity_method(
            ResearchActivities.books_to_study,
            asked,
            start_to_close_timeout=timedelta(minutes=1),
            schedule_to_close_timeout=A_RUN,
            retry_policy=UNTIL_DONE_SELDOM,
            summary="Which books have something to study?",
        )
        return due.books

    async def _study(self, study: BookStudy) -> Studied:
        read = await workflow.execute_activity_method(
            ResearchActivities.read_trades,
            study,
            schedule_to_close_timeout=A_RUN,
            heartbeat_timeout=SILENCE,
            retry_policy=MODEL,
            summary=f"Read what closed in {study.book}",
        )
        if read.stopped:
            return read
        looked = await workflow.execute_activity_method(
            ResearchActivities.look_over,
            study,
            schedule_to_close_timeout=A_RUN,
            heartbeat_timeout=SILENCE,
            retry_policy=MODEL,
            summary=f"Look {study.book} over",
        )
        return read.plus(looked)
