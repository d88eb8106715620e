"""What live closes are compared with: an empty workflow with one empty activity."""

from datetime import timedelta

from temporalio import activity, workflow

QUEUE = "bench-empty"


@activity.defn
async def nothing() -> None:
    """Does nothing."""


@workflow.defn
class EmptyWorkflow:
    """One activity that does nothing."""

    @workflow.run
    async def run(self) -> None:
        """See the class."""
        await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(seconds=15))
