"""Starting the workflow of a close, the same way from everywhere."""

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from closeloop.models.positions import ClosedPosition, CloseReport
from closeloop.models.search_attributes import position_attributes
from closeloop.models.sentences import opening_line

TASK_QUEUE = "closeloop"
MARKET_TASK_QUEUE = "closeloop-market"
# Slow and costly: whatever a language model does, it can never starve the others.
LLM_TASK_QUEUE = "closeloop-llm"
POSITION_CLOSE = "PositionCloseWorkflow"


async def start_close(
    client: Client, position: ClosedPosition, on_conflict: WorkflowIDConflictPolicy
) -> WorkflowHandle[object, CloseReport]:
    """Start a position's workflow. A finished one may run again: the database makes that harmless, and tells."""
    return await client.start_workflow(
        POSITION_CLOSE,
        position,
        id=position.key.workflow_id,
        task_queue=TASK_QUEUE,
        id_conflict_policy=on_conflict,
        static_summary=opening_line(position),
        search_attributes=position_attributes(position),
        result_type=CloseReport,
    )
