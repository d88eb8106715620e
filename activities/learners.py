"""Where learners plug in: what is to be learned from an attributed position, beyond its attribution.

A learner is given to :class:`LearnerActivities` in ``workers/wiring.py``. It runs after the attribution is committed,
in a transaction of its own; what fails is retried on its own and never touches the attribution.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from closeloop import store
from closeloop.activities.transactions import transaction
from closeloop.models.positions import LearnReport, LearnRequest, PositionKey, PositionOutcome
from closeloop.store.database import Sessions


class Learner(Protocol):
    """Something that learns from outcomes. Told of the same outcome twice, it must learn from it once."""

    @property
    def name(self) -> str:
        """Stands in workflow histories: never rename a learner."""
        ...

    async def learn(self, session: AsyncSession, outcomes: Sequence[PositionOutcome]) -> None:
        """Take in these outcomes, within the session's transaction."""
        ...


@runtime_checkable
class BulkLearner(Learner, Protocol):
    """A learner that can take in outcomes that were attributed in the same transaction, before it was owed them."""

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        """Learn from outcomes that nobody else can know of yet, given the entry contexts of their positions."""
        ...


class LearnerActivities:
    """Runs the learners."""

    def __init__(self, sessions: Sessions, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._learners = {learner.name: learner for learner in learners}

    @activity.defn(name="learn")
    async def learn(self, request: LearnRequest) -> LearnReport:
        """Each named learner in its own transaction; failures are reported, not raised, so that none hides another."""
        report = LearnReport()
        async with transaction(self._sessions) as session:
            outcomes = list((await store.attributions.load(session, [request.position])).values())
        for name in request.learners:
            learner = self._learners.get(name)
            if learner is None:
                report.failed[name] = "this worker does not have it"
                continue
            try:
                async with transaction(self._sessions) as session:
                    await learner.learn(session, outcomes)
                report.learned.append(name)
            except Exception as error:
                activity.logger.warning("learner failed", exc_info=True, extra={"learner": name})
                report.failed[name] = f"{type(error).__name__}: {error}"[:500]
        return report
