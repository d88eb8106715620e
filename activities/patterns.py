"""What a close teaches about patterns: the learners of actions and of timeframes, and what they missed."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.heartbeats import beating
from closeloop.activities.learners import REASON_CHARACTERS, Learner, learn_owed, reason
from closeloop.activities.transactions import transaction
from closeloop.learning.coefficients import DecayedMean, after, weight
from closeloop.learning.scope import Scope, flatten, timeframe_of
from closeloop.models.events import EventType
from closeloop.models.patterns import ExecutedAction, LearnMissed, LearnMissedReport, TimeframeCoefficient
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import PositionKey, PositionOutcome
from closeloop.models.refusals import describe
from closeloop.store.database import Sessions
from closeloop.store.errors import ends_transaction

COEFFICIENTS_MODULE = "decision_maker"  # the reader of timeframe coefficients, as seed and engines call it
ALL_TIMEFRAMES = "*"  # all timeframes together, beside their names in the sums
MAX_TIMEFRAMES = 256  # of a book, for which coefficients are kept
CHUNK_OUTCOMES = 1_000  # that a learner catches up on in one transaction

Events = dict[str, tuple[EventType, str, dict[str, Any]]]


class PatternEvents:
    """A row for each executed action of a closed trade, with the scope in which it was taken."""

    name = "pattern-events"

    def __init__(self, policy: LearningPolicy) -> None:
        self._policy = policy

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        """See Learner. An action or a scope that cannot be read is left out, and one event a position says so."""
        rows: list[dict[str, Any]] = []
        events: Events = {}
        for outcome in outcomes:
            context = contexts[outcome.key]
            if isinstance(context, dict) and context.get("actions"):
                rows += self._rows(outcome, context, events)
        # Sorted, so that two transactions that tell of the same dimensions do not wait for each other in a circle.
        told = sorted(events.values(), key=lambda told: told[:2])
        await store.rows.execute(session, store.events.appending(told), store.patterns.storing_actions(rows))

    def _rows(self, outcome: PositionOutcome, context: dict[str, Any], events: Events) -> list[dict[str, Any]]:
        actions = context["actions"]
        if not isinstance(actions, list):
            _unreadable(events, outcome, None, "actions: must be a list")
            return []
        scope = flatten(context, self._policy.patterns)
        for dimension in scope.unknown:
            about = f"{outcome.book}/{dimension}"
            payload = {"book": outcome.book, "dimension": dimension, "position_id": outcome.position_id}
            events.setdefault(about, (EventType.scope_dimension_unknown, about, payload))
        rows = []
        for index, action in enumerate(actions):
            try:
                rows.append(self._row(outcome, scope, index, ExecutedAction.model_validate(action)))
            except ValidationError as error:
                _unreadable(events, outcome, index, describe(error))
        return rows

    def _row(self, outcome: PositionOutcome, scope: Scope, index: int, action: ExecutedAction) -> dict[str, Any]:
        return {
            "book_id": outcome.book,
            "position_id": outcome.position_id,
            "action_index": index,
            "pattern_key": action.pattern_key,
            "action_category": action.action_category,
            "symbol": outcome.symbol,
            "scope": scope.values,
            "rr": outcome.rr,
            "pnl": outcome.realized_pnl,
            "acted_at": action.at,
            "opened_at": outcome.opened_at,
            "closed_at": outcome.closed_at,
            "policy_hash": self._policy.patterns.hash,
        }


class TimeframeCoefficients:
    """Decayed means of R, for each timeframe and for all together. A trade without R teaches nothing."""

    name = "timeframe-coefficients"

    def __init__(self, policy: LearningPolicy) -> None:
        self._policy = policy

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        """See Learner. Books are held in the order of their names."""
        books: defaultdict[str, list[tuple[PositionOutcome, str | None]]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.rr is not None:
                books[outcome.book].append((outcome, timeframe_of(contexts[outcome.key])))
        for book in sorted(books):
            await self._add(session, book, books[book])

    async def _add(
        self, session: AsyncSession, book: str, outcomes: Sequence[tuple[PositionOutcome, str | None]]
    ) -> None:
        held = await store.patterns.hold_config(session, book, COEFFICIENTS_MODULE, self._policy.coefficients.hash)
        sums: dict[str, dict[str, list[Any]]] = held["sums"]
        trades: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for outcome, timeframe in outcomes:
            assert outcome.rr is not None, "those without R were left out"
            trade = (outcome.rr, outcome.closed_at.timestamp())
            trades[ALL_TIMEFRAMES].append(trade)
            # The row is rewritten with every close: an engine's mistake must not make it grow without end.
            if timeframe is not None and (timeframe in sums or len(sums) + len(trades) <= MAX_TIMEFRAMES):
                trades[timeframe].append(trade)
        for name, of_timeframe in trades.items():
            rr, at = (np.array(values, dtype=np.float64) for values in zip(*of_timeframe, strict=True))
            kept = sums.get(name, {})
            sums[name] = {
                memory: _stored(after(_state(kept.get(memory)), rr, at, days, self._policy.coefficients))
                for memory, days in self._memories().items()
            }
        row = {"book_id": book, "module_id": COEFFICIENTS_MODULE, "config_data": self._config(sums), "sums": sums}
        await store.patterns.set_config(session, row | {"policy_hash": self._policy.coefficients.hash})

    def _memories(self) -> dict[str, float]:
        return {"short": self._policy.coefficients.short_days, "long": self._policy.coefficients.long_days}

    def _config(self, sums: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, Any]:
        """As an engine reads it (docs/algorithms.md, section 10)."""
        states = {name: {memory: _state(kept[memory]) for memory in kept} for name, kept in sums.items()}
        everything = states[ALL_TIMEFRAMES]
        weights = {
            name: TimeframeCoefficient(
                weight=weight(kept["short"], everything["short"], self._policy.coefficients),
                rr_short=kept["short"].value or 0.0,
                rr_long=kept["long"].value or 0.0,
                n=kept["short"].n,
            ).model_dump()
            for name, kept in states.items()
            if name != ALL_TIMEFRAMES
        }
        together = {
            "rr_short": everything["short"].value,
            "rr_long": everything["long"].value,
            "n": everything["short"].n,
        }
        return {"timeframe_weights": weights, "global_rr": together}


class MissedActivities:
    """Lets learners take in outcomes that they have not learned yet, because they failed on them before."""

    def __init__(self, sessions: Sessions, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._learners = learners

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.learn_missed]

    @activity.defn(name="learn_missed")
    async def learn_missed(self, request: LearnMissed) -> LearnMissedReport:
        """Let each learner catch up, all at the same time; an outcome that it cannot take in holds up no other."""
        report = LearnMissedReport(learned={learner.name: 0 for learner in self._learners})
        async with beating():
            await asyncio.gather(*(self._catch_up(learner, request.books, report) for learner in self._learners))
        return report

    async def _catch_up(self, learner: Learner, books: list[str] | None, report: LearnMissedReport) -> None:
        last: PositionKey | None = None
        while taken := await self._chunk(learner, books, last, report):
            last = taken[-1]
            activity.heartbeat(learner.name, report.learned[learner.name])

    async def _chunk(
        self, learner: Learner, books: list[str] | None, last: PositionKey | None, report: LearnMissedReport
    ) -> list[PositionKey]:
        async with transaction(self._sessions) as session:
            keys = await store.patterns.missed(session, learner.name, books, last, CHUNK_OUTCOMES)
            failed = await self._failure(session, learner, keys)
        if failed is None:
            report.learned[learner.name] += len(keys)
            return keys
        if learner.name not in report.failed:  # told once in a run: there may be many more
            extra = {"learner": learner.name}
            activity.logger.warning("a chunk is learned one by one", exc_info=failed, extra=extra)
        for key in keys:
            async with transaction(self._sessions) as session:
                failed = await self._failure(session, learner, [key])
                if failed is not None:
                    await store.patterns.postpone(session, learner.name, key)
            if failed is None:
                report.learned[learner.name] += 1
            else:
                report.failed[learner.name] = f"{key.book}/{key.position_id}: {reason(failed)}"[:REASON_CHARACTERS]
        return keys

    async def _failure(self, session: AsyncSession, learner: Learner, keys: list[PositionKey]) -> Exception | None:
        """What a learner failed on, so that it still owes these. Raises a database error that ends the transaction."""
        if not keys:
            return None
        outcomes = await store.attributions.load(session, keys)
        try:
            async with session.begin_nested():
                await learn_owed(session, learner, list(outcomes.values()))
        except Exception as error:
            if ends_transaction(error):
                raise
            return error
        return None


def _unreadable(events: Events, outcome: PositionOutcome, index: int | None, reason: str) -> None:
    about = f"{outcome.book}/{outcome.position_id}"  # one event a position, of its first action that cannot be read
    payload = {"book": outcome.book, "position_id": outcome.position_id, "action": index, "reason": reason[:500]}
    events.setdefault(f"{EventType.action_unreadable}/{about}", (EventType.action_unreadable, about, payload))


def _state(stored: list[Any] | None) -> DecayedMean:
    return DecayedMean(*stored) if stored else DecayedMean()


def _stored(state: DecayedMean) -> list[Any]:
    return [state.s, state.w, state.t_ref, state.n]
