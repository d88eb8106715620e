"""Where learners plug in: what is to be learned from an attributed position, beyond its attribution.

The learners stand in ``workers/wiring.py``. They run in the transaction of the attribution, each in a savepoint. What
one fails on is owed (``unlearned``), and taken in by a catch-up; it never touches the attribution.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.transactions import transaction
from closeloop.models.positions import AttributedClose, LearnReport, LearnRequest, PositionKey, PositionOutcome
from closeloop.store.database import Sessions
from closeloop.store.errors import is_passing

REASON_CHARACTERS = 500


class Learner(Protocol):
    """Something that learns from outcomes."""

    @property
    def name(self) -> str:
        """Stands in workflow histories and in what is owed: never rename a learner."""
        ...

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        """Learn within the session's transaction, in which nobody else can learn the same.

        ``outcomes``: at least one, each once, by (book, position_id). ``contexts``: the ``entry_context`` of each.
        """
        ...


async def learn_from(
    session: AsyncSession,
    learners: Sequence[Learner],
    closes: Sequence[AttributedClose],
    contexts: Mapping[PositionKey, Any],
) -> LearnReport:
    """Let every learner take in what the caller's transaction attributed, and what it owes of the other closes.

    ``contexts``: the entry contexts of the closes. Raises a database error that may pass; what else a learner raises
    is reported.
    """
    report = LearnReport()
    new = {close.outcome.key: close.outcome for close in closes if not close.already_attributed}
    known = {close.outcome.key: close.outcome for close in closes if close.outcome.key not in new}
    new_contexts = {key: contexts[key] for key in new}
    for learner in learners:
        try:
            async with session.begin_nested():
                owed = await store.patterns.claim(session, learner.name, list(known)) if known else {}
                await _take_in(session, learner, known | new, owed | new_contexts)
            report.learned.append(learner.name)
        except Exception as error:
            if is_passing(error):
                raise
            activity.logger.warning("learner failed", exc_info=True, extra={"learner": learner.name})
            report.failed[learner.name] = reason(error)
            await store.rows.execute(session, store.patterns.marking_unlearned(list(new), [learner.name]))
    return report


async def learn_owed(session: AsyncSession, learner: Learner, outcomes: Sequence[PositionOutcome]) -> None:
    """Let a learner take in what it owes of these outcomes, within the caller's transaction."""
    owed = await store.patterns.claim(session, learner.name, [outcome.key for outcome in outcomes])
    await _take_in(session, learner, {outcome.key: outcome for outcome in outcomes}, owed)


def reason(error: Exception) -> str:
    """Why a learner failed, in one line for the report."""
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]


async def _take_in(
    session: AsyncSession,
    learner: Learner,
    outcomes: Mapping[PositionKey, PositionOutcome],
    contexts: Mapping[PositionKey, Any],
) -> None:
    """Of these outcomes, those that have a context."""
    if contexts:
        await learner.take_in(session, [outcomes[key] for key in sorted(contexts)], contexts)


class LearnerActivities:
    """Runs the learners for workflows that began before learners ran in the attribution's transaction."""

    def __init__(self, sessions: Sessions, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._learners = {learner.name: learner for learner in learners}

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.learn]

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
                    await learn_owed(session, learner, outcomes)
                report.learned.append(name)
            except Exception as error:
                activity.logger.warning("learner failed", exc_info=True, extra={"learner": name})
                report.failed[name] = reason(error)
        return report
