"""Learners: what else is learned from an attributed position, beyond its attribution.

``workers/wiring.py`` lists the learners. They run in the transaction of the attribution, each in a savepoint: one that
fails undoes only its own writes. The closes it failed on stay marked (table ``unlearned``), and a catch-up lets it take
them in later.
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
from closeloop.store.errors import ends_transaction

REASON_CHARACTERS = 500  # of why a learner failed, in a report that a workflow's history keeps


class Learner(Protocol):
    """Something that learns from outcomes."""

    @property
    def name(self) -> str:
        """Never change it: workflow histories and the marks of what is not yet learned contain it."""
        ...

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        """Learn within the session's transaction; no other transaction learns from the same outcomes meanwhile.

        ``outcomes``: at least one, each once, by (book, position_id). ``contexts``: the ``entry_context`` of each.
        """
        ...


async def learn_from(
    session: AsyncSession,
    learners: Sequence[Learner],
    closes: Sequence[AttributedClose],
    contexts: Mapping[PositionKey, Any],
) -> LearnReport:
    """Let every learner take in the closes that the caller's transaction attributed.

    Of closes that were attributed before, a learner takes in those that it has not learned yet. ``contexts``: the entry
    contexts of the closes. Raises a database error that ended the caller's transaction; anything else that a learner
    raises is reported, whether it would pass (a limit of time) or last (a table that is missing).
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
            if ends_transaction(error):
                raise
            activity.logger.warning("learner failed", exc_info=True, extra={"learner": learner.name})
            report.failed[learner.name] = reason(error)
            await store.rows.execute(session, store.patterns.marking_unlearned(list(new), [learner.name]))
    return report


async def learn_owed(session: AsyncSession, learner: Learner, outcomes: Sequence[PositionOutcome]) -> None:
    """Let a learner take in those of these outcomes that it has not learned yet, within the caller's transaction."""
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
    """Let a learner take in those outcomes that have a context."""
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
