"""Starting workflows as ``models/launches.py`` describes them."""

from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from closeloop.models.errors import RunFailed
from closeloop.models.launches import Launch


async def start(client: Client, launch: Launch, signal: str | None = None) -> WorkflowHandle[Any, Any]:
    """Start a workflow, or with ``signal``, which is sent in any case, join the one that runs.

    Raises WorkflowAlreadyStartedError where the launch does not join or repeat what has its id.
    """
    return await client.start_workflow(
        launch.workflow,
        args=[] if launch.message is None else [launch.message],
        id=launch.id,
        task_queue=launch.task_queue,
        id_reuse_policy=launch.reuse,
        # A signal joins by itself; the server takes no policy beside it.
        id_conflict_policy=WorkflowIDConflictPolicy.UNSPECIFIED if signal else launch.conflict,
        start_signal=signal,
        static_summary=launch.summary,
        search_attributes=launch.attributes,
        result_type=launch.result,
    )


async def run(client: Client, launch: Launch, failed: str | None = None) -> Any:
    """Start a workflow and wait for its result, of the launch's type.

    Raises RunFailed with what it failed for; ``failed`` says in front of that what did not happen.
    """
    handle = await start(client, launch)
    try:
        return await result(handle)
    except RunFailed as error:
        if failed is None:
            raise
        raise RunFailed(f"{failed}: {str(error).rstrip('.')}.") from None


async def result(handle: WorkflowHandle[Any, Any]) -> Any:
    """The result of a workflow. Raises RunFailed with what it failed for."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        reason = cause.message if isinstance(cause, ApplicationError) else str(cause)
        raise RunFailed(reason[:500]) from None
