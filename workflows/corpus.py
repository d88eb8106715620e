"""Once a day outcomes are added to the scores of skills, and skills are promoted or archived by their scores."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.due_work import work_done
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_DONE_SELDOM

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.corpus import CorpusActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.corpus import CorpusReport, CorpusRequest
    from closeloop.models.periods import PeriodicTask


@workflow.defn(name="CorpusWorkflow")
class CorpusWorkflow:
    """Add the outcomes of patterns to the scores of their skills, then promote and archive skills.

    Runs as the work of a day (due_work.py) and from ``closeloop corpus run``. What a killed run left half-done, the
    next attempt finishes.
    """

    @workflow.run
    async def run(self, message: CorpusRequest | None = None) -> CorpusReport:
        """See the class."""
        request = expect(message, CorpusRequest)
        report = await workflow.execute_activity_method(
            CorpusActivities.tend_corpus,
            request,
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(minutes=2),
            retry_policy=UNTIL_DONE_SELDOM,
            summary="Score, promote and archive skills",
        )
        if request.as_of is not None:
            await work_done(PeriodicTask.corpus, request.as_of)
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("corpus")])
        workflow.upsert_memo({"outcome": report.sentence})
        return report
