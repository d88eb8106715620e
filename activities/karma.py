"""Karma recomputed from the attributions."""

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import each_book
from closeloop.activities.transactions import transaction
from closeloop.learning.karma import karma_step
from closeloop.models.bounded import BOOKS
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import KarmaRebuildReport, KarmaRebuildRequest
from closeloop.store.database import Sessions


class KarmaActivities:
    """Rebuilds karma: a moving average depends on the order of its outcomes, and closes arrive out of order."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.rebuild_karma]

    @activity.defn(name="rebuild_karma")
    async def rebuild_karma(self, request: KarmaRebuildRequest) -> KarmaRebuildReport:
        """Compute the karma of a book (null: of each), from its outcomes by (closed_at, position_id).

        Each book is one transaction. Of all books, one that fails is reported and holds up none of the others; one that
        was asked for by its name fails the attempt.
        """
        report = KarmaRebuildReport(
            producers={}, policy_hash=self._policy.policy_hash, karma=self._policy.karma.model_dump()
        )

        async def rebuild(book: str) -> None:
            activity.heartbeat(book)
            producers = await self._rebuild(book)
            if len(report.producers) < BOOKS:
                report.producers[book] = producers
            else:
                report.unlisted += 1

        if request.book is not None:
            await rebuild(request.book)
            return report
        async with transaction(self._sessions) as session:
            books = await store.books.learning(session)
        report.failed = await each_book(self._sessions, "karma", books, rebuild)
        return report

    async def _rebuild(self, book: str) -> int:
        totals: dict[str, tuple[float, int, int]] = {}
        async with transaction(self._sessions) as session:
            await store.karma.lock_book(session, book)
            number = 0
            async for names, won in store.karma.outcomes_in_order(session, book):
                number += 1
                for name in names:
                    karma, wins, losses = totals.get(name, (self._policy.karma.start, 0, 0))
                    karma = karma_step(karma, 1 if won else -1, self._policy.karma)
                    totals[name] = (karma, wins + won, losses + (not won))
                if number % 10_000 == 0:
                    activity.heartbeat(book, number)
            await store.karma.replace(session, book, totals)
        return len(totals)
