"""The one decision that only weights have: reverting what an operator approved."""

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from closeloop.activities import Activity
from closeloop.activities.senders import sender_of
from closeloop.activities.transactions import transaction
from closeloop.models.approvals import ApprovalAnswer
from closeloop.models.errors import NotOnRecord
from closeloop.models.policy import ApprovalsPolicy
from closeloop.models.weights import RecordRevert
from closeloop.services.weight_decisions import revert
from closeloop.store.database import Sessions


class WeightDecisionActivities:
    """Undoes what a cycle applied. Its proposal is decided on as everything that waits (activities/approvals.py)."""

    def __init__(self, sessions: Sessions, client: Client, policy: ApprovalsPolicy) -> None:
        self._sessions = sessions
        self._client = client
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.revert]

    @activity.defn(name="revert_weights")
    async def revert(self, word: RecordRevert) -> ApprovalAnswer:
        """Put the weights before the cycle back in force, or answer why not. A retry answers from the record."""
        sender = await sender_of(self._client, word.said_in)
        try:
            async with transaction(self._sessions) as session:
                return await revert(session, word, sender=sender, require_token=self._policy.require_token)
        except NotOnRecord as error:
            raise ApplicationError(str(error), type="CycleUnknown", non_retryable=True) from None
