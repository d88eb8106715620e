"""Contexts that engines never sent: filled in from the states on record as of the openings, a batch at a time."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import known_book
from closeloop.activities.patterns import PatternEvents
from closeloop.activities.transactions import transaction
from closeloop.learning.market.contexts import bucket_of, completed, states_by_dimension, states_sent
from closeloop.learning.scope import flatten, timeframe_of
from closeloop.models.market_contexts import ContextSource, FillContexts, FilledContexts, FoundContext
from closeloop.models.market_levers import LeversRequest
from closeloop.models.market_views import ChannelAsOf
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import PositionKey
from closeloop.services import market_levers
from closeloop.store.database import Sessions

REFUSED = "MarketBackfillRefused"
BATCH_CLOSES = 500


class Filled(NamedTuple):
    """A close whose context is filled in: what the engine sent, and what the record has."""

    key: PositionKey
    sent: Any
    opened_at: datetime
    found: FoundContext
    known_then: bool


class MarketContextActivities:
    """Looks up what the market was when positions were opened."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, batch_closes: int = BATCH_CLOSES) -> None:
        self._sessions = sessions
        self._policy = policy
        self._batch_closes = batch_closes

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.fill_contexts]

    @activity.defn(name="fill_market_contexts")
    async def fill_contexts(self, request: FillContexts) -> FilledContexts:
        """Fill in the next closes of a book that say nothing of the market; a retry changes nothing more.

        Pattern trade events of these closes get the scope that they would have had, and their groups are due to be
        mined. What an engine sent stays as it is.
        """
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            await known_book(session, request.book, REFUSED)
            rows = await store.market_contexts.next_closes(session, request.book, request.after, self._batch_closes)
            answer = FilledContexts(closes=len(rows), last=rows[-1]["position_id"] if rows else None)
            todo: list[RowMapping] = []
            for row in rows:
                if row["filled_by"] is not None:
                    # By an attempt of this run that committed and died before it answered: it counts all the same.
                    mine = row["filled_by"] == run
                    answer.filled += mine
                    answer.already += not mine
                    answer.without_ae += mine and row["a_value"] is None
                elif states_sent(row["entry_context"]):
                    answer.sent += 1
                else:
                    todo.append(row)
            filled = await self._find(session, request.book, todo, answer)
            await self._write(session, filled, run, answer)
        return answer

    async def _find(
        self, session: AsyncSession, book: str, rows: Sequence[RowMapping], answer: FilledContexts
    ) -> list[Filled]:
        instants = [row["opened_at"] for row in rows]
        filled = []
        states = await store.market.states.as_of_each(session, instants, market_levers.ages(self._policy.levers))
        for row, then in zip(rows, states, strict=True):
            found = self._context(row["entry_context"], then)
            if not found.states:
                answer.no_states += 1
                at = row["opened_at"]
                answer.no_states_first = min(answer.no_states_first or at, at)
                answer.no_states_last = max(answer.no_states_last or at, at)
                continue
            key = PositionKey(book, row["position_id"])
            # Of the states that are the trade's own: another bucket's say nothing of it.
            bucket = bucket_of(row["entry_context"])
            known_then = all(each.known_then for each in then if states_by_dimension([each], bucket))
            filled.append(Filled(key, row["entry_context"], row["opened_at"], found, known_then))
        return filled

    def _context(self, sent: Any, then: Sequence[ChannelAsOf]) -> FoundContext:
        """States, and where the traded timeframe is known, A and E without intent and without the bucket's rank."""
        bucket, timeframe = bucket_of(sent), timeframe_of(sent)
        states = states_by_dimension(then, bucket)
        if not states or timeframe is None or timeframe not in self._policy.levers.execution_weights:
            return FoundContext(ContextSource.backfilled, states, None, None)
        request = LeversRequest(bucket=bucket, timeframe=timeframe)
        given = market_levers.answer(request, market_levers.channels(list(then)), self._policy.levers)
        return FoundContext(ContextSource.backfilled, states, given.A, given.E)

    async def _write(self, session: AsyncSession, filled: Sequence[Filled], run: str, answer: FilledContexts) -> None:
        if not filled:
            return
        # Before the contexts are there: whoever is learning from these closes has not seen them, and is waited for.
        await store.market_contexts.hold_marks(session, PatternEvents.name, [one.key for one in filled])
        rows = [
            {
                "book_id": one.key.book,
                "position_id": one.key.position_id,
                "source": one.found.source,
                "levers_id": None,
                "as_of": one.opened_at,
                "known_then": one.known_then,
                "states": one.found.states,
                "a_value": one.found.a_value,
                "e_value": one.found.e_value,
                "policy_hash": self._policy.levers.hash,
                "filled_by": run,
            }
            for one in filled
        ]
        new = await store.market_contexts.add(session, rows)
        taken = [one for one in filled if one.key in new]
        answer.filled += len(taken)
        answer.without_ae += sum(one.found.a_value is None for one in taken)
        answer.already += len(filled) - len(taken)
        scopes: Mapping[PositionKey, Mapping[str, str]] = {
            one.key: flatten(completed(one.sent, one.found), self._policy.patterns).values for one in taken
        }
        answer.actions += await store.patterns.set_scopes(session, scopes, self._policy.patterns.hash)
