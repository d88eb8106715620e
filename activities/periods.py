"""Which work of the period that has begun is due, by the record of what was done."""

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.transactions import transaction
from closeloop.models.periods import DueAnswer, DueQuestion, WorkDone
from closeloop.store.database import Sessions


class PeriodicActivities:
    """Answers from the record."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.work_due, self.work_done]

    @activity.defn(name="work_due")
    async def work_due(self, question: DueQuestion) -> DueAnswer:
        """Whether the period that the instant lies in lacks its work; earlier periods are not made up."""
        async with transaction(self._sessions) as session:
            last = await store.periods.last_done(session, question.task)
        done = last.as_of if last else None
        if question.by_hand:
            return DueAnswer(as_of=question.at, done=done)
        begins = question.task.begins(question.at)
        return DueAnswer(as_of=None if done is not None and done >= begins else begins, done=done)

    @activity.defn(name="work_done")
    async def work_done(self, work: WorkDone) -> None:
        """Put the work of a period on record as done."""
        async with transaction(self._sessions) as session:
            await store.periods.done(session, work)
