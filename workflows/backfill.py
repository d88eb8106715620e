"""Bulk imports: staged rows are attributed by the same code as live closes, then karma is recomputed in order."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.imports import ImportActivities
    from closeloop.activities.karma import KarmaActivities
    from closeloop.activities.patterns import MissedActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.imports import ImportReport, ImportRequest
    from closeloop.models.patterns import LearnMissed, LearnMissedReport
    from closeloop.models.positions import KarmaRebuildReport, KarmaRebuildRequest

# A worker that imports or learns sends a heartbeat every three seconds: one that sends none for so long was killed.
WITHOUT_HEARTBEAT = timedelta(seconds=12)
LONGEST_IMPORT = timedelta(hours=12)


@workflow.defn(name="BackfillWorkflow")
class BackfillWorkflow:
    """Attribute every row of a staged import, rebuild the karma of the books it touched, learn from it, and report."""

    @workflow.run
    async def run(self, message: ImportRequest | None = None) -> ImportReport:
        """See the class."""
        request = expect(message, ImportRequest)
        await workflow.execute_activity_method(
            ImportActivities.attribute_import,
            request,
            start_to_close_timeout=LONGEST_IMPORT,
            heartbeat_timeout=WITHOUT_HEARTBEAT,
            retry_policy=UNTIL_DONE,
            summary="Attribute the imported closes",
        )
        report = await workflow.execute_activity_method(
            ImportActivities.report_import,
            request,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=UNTIL_DONE,
            summary="Count what became of the rows",
        )
        for book, counts in report.books.items():
            # Also where the file is in order: other closes of the book may lie between those of the file.
            if counts.attributed:
                await rebuild_karma(KarmaRebuildRequest(book=book))
        if report.books and workflow.patched("learn-missed"):
            await learn_missed(LearnMissed(books=list(report.books)))
        self._publish(report)
        return report

    def _publish(self, report: ImportReport) -> None:
        attributed = sum(c.attributed for c in report.books.values())
        already = sum(c.already_attributed for c in report.books.values())
        workflow.upsert_memo(
            {
                "outcome": f"{attributed} closes attributed, {already} had been, {report.rejected} rows refused; "
                f"books: {', '.join(list(report.books)[:20]) or 'none'}"
            }
        )
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("import")])


@workflow.defn(name="KarmaRebuildWorkflow")
class KarmaRebuildWorkflow:
    """Recompute karma from the attributions, in the order in which the positions closed."""

    @workflow.run
    async def run(self, message: KarmaRebuildRequest | None = None) -> KarmaRebuildReport:
        """See the class."""
        request = expect(message, KarmaRebuildRequest)
        return await rebuild_karma(request)


async def rebuild_karma(request: KarmaRebuildRequest) -> KarmaRebuildReport:
    """Run the activity that rebuilds karma, until it succeeds."""
    return await workflow.execute_activity_method(
        KarmaActivities.rebuild_karma,
        request,
        start_to_close_timeout=timedelta(minutes=30),
        heartbeat_timeout=timedelta(minutes=1),
        retry_policy=UNTIL_DONE,
        summary=f"Rebuild karma of {request.book or 'every book'}",
    )


async def learn_missed(request: LearnMissed, retry_policy: RetryPolicy = UNTIL_DONE) -> LearnMissedReport:
    """Run the activity that lets the learners take in what they missed."""
    return await workflow.execute_activity_method(
        MissedActivities.learn_missed,
        request,
        start_to_close_timeout=LONGEST_IMPORT,
        heartbeat_timeout=WITHOUT_HEARTBEAT,
        retry_policy=retry_policy,
        summary=f"Learn what was missed, {len(request.books)} books" if request.books else "Learn what was missed",
    )
