"""The meta-producer speaks after each resolution."""

from datetime import timedelta

from temporalio import workflow

from closeloop.workflows.decisions import scheduled_time
from closeloop.workflows.messages import expect
from closeloop.workflows.retries import UNTIL_NEXT_RUN

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.meta import MetaActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.meta import MetaReport, MetaRequest


@workflow.defn(name="MetaForecastWorkflow")
class MetaForecastWorkflow:
    """For each asset and horizon that producers spoke of lately: emit, or abstain with the reason."""

    @workflow.run
    async def run(self, message: MetaRequest | None = None) -> MetaReport:
        """See the class."""
        request = expect(message, MetaRequest)
        report = await workflow.execute_activity_method(
            MetaActivities.speak_meta,
            request.model_copy(update={"as_of": request.as_of or scheduled_time()}),
            start_to_close_timeout=timedelta(minutes=30),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=UNTIL_NEXT_RUN,
            summary="What usually followed when the producers stood as they do?",
        )
        sentences = [f"{report.emitted} emitted", f"{report.shadowed} in shadow"]
        sentences += [f"{count} abstained ({reason})" for reason, count in sorted(report.abstained.items())]
        sentences += [f"book {book} failed: {reason}" for book, reason in sorted(report.failed.items())]
        workflow.upsert_search_attributes([sa.LIFECYCLE.value_set("meta")])
        workflow.upsert_memo({"outcome": ", ".join(sentences)[:2000]})
        return report
