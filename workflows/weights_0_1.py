"""Weight cycles that were begun by closeloop 0.1: their histories name other activities for the same decisions.

To be deleted once none of them runs any more: a cycle lasts until its book's next one, a month at most.
"""

from collections.abc import Callable
from typing import Any

from temporalio import workflow

from closeloop.workflows.retries import LONGEST_TRANSACTION, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.activities.weight_decisions import WeightDecisionActivities
    from closeloop.activities.weights_0_1 import as_answered_today, as_asked_by_0_1
    from closeloop.models.sentences import short

_NAMED_OTHERWISE = (
    ApprovalActivities.decide,
    ApprovalActivities.remind,
    ApprovalActivities.refuse_word,
    WeightDecisionActivities.revert,
)


async def transaction(activity: Callable[..., Any], message: Any, summary: str) -> Any:
    """See Deciding._transaction."""
    if activity not in _NAMED_OTHERWISE:
        return await _execute(activity, message, summary)
    name, message = as_asked_by_0_1(message)
    return as_answered_today(await _execute(name, message, summary))


async def _execute(activity: Any, message: Any, summary: str) -> Any:
    return await workflow.execute_activity(
        activity,
        message,
        start_to_close_timeout=LONGEST_TRANSACTION,
        retry_policy=UNTIL_DONE,
        summary=short(summary),
    )
