"""Activities of decisions: outcomes are filled in page by page, each in a transaction."""

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.models.decisions import FillReport, FillRequest
from closeloop.models.policy import LearningPolicy
from closeloop.services import decisions
from closeloop.store.database import Sessions


class DecisionActivities:
    """Fills in what became of the market after decisions."""

    page_size = 2_000  # decisions of one transaction

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.fill_decision_outcomes]

    @activity.defn(name="fill_decision_outcomes")
    async def fill_decision_outcomes(self, request: FillRequest) -> FillReport:
        """Fill in all that is due as of an instant. A second time it finds nothing left to do.

        What another run has under way is passed over; a return that is on record is never changed.
        """
        assert request.as_of is not None, "the workflow fills it in"
        report = FillReport(as_of=request.as_of)
        async with transaction(self._sessions) as session:
            await store.decision_outcomes.notice_closes(session, request.as_of)
        after = None
        async with beating():
            while True:
                async with transaction(self._sessions) as session:
                    after = await decisions.fill_page(
                        session, request.as_of, after, self.page_size, self._policy, report
                    )
                if after is None:
                    return report
                activity.heartbeat(report)
