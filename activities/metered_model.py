"""A language model with a budget: the most that a call can cost is reserved, the model is asked, the call is settled.

A call is settled in the transaction that stores its answer. A process that dies in between leaves its reservation: the
reserved amount counts as paid, and until the reservation ends nobody else asks the same question.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.transactions import DATABASE_AWAY, transaction
from closeloop.gateways.language_model import (
    LanguageModel,
    MalformedAnswer,
    ModelBusy,
    ModelError,
    ModelRejected,
    NoAnswer,
    highest_cost,
)
from closeloop.models.events import EventType
from closeloop.models.model_calls import (
    Answer,
    CallOutcome,
    NotReserved,
    Question,
    QuestionCost,
    ReservationRequest,
    ReservedCall,
    Usage,
)
from closeloop.store.database import Sessions

ATTEMPTS = 3  # calls of a question that was declined or answered in another shape
HOLD_BEYOND_TIMEOUT = timedelta(seconds=60)  # how much longer a reservation holds than a call can take
SETTLE_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts to settle, while the database is away

MODEL_BUSY = "ModelBusy"
MODEL_REJECTED = "ModelRejected"
QUESTION_HELD = "QuestionHeld"

Keep = Callable[[AsyncSession, QuestionCost], Awaitable[None]]
"""Stores the answer of a question in the transaction that settles its call; gets what all its calls cost."""


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """An answer, whose call is yet to be settled."""

    key: str
    call: ReservedCall
    answer: Answer
    usage: Usage


class MeteredModel:
    """Asks ``model`` within ``budget`` (USD a day, UTC), from within an activity."""

    def __init__(self, sessions: Sessions, model: LanguageModel, budget: Decimal) -> None:
        self._sessions = sessions
        self._model = model
        self._budget = budget

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    async def ask(self, question: Question[Answer], key: str, book: str) -> Answered[Answer] | NotReserved:
        """The answer, whose call the caller settles; or why there is none: over budget, or given up.

        Raises ApplicationError that Temporal retries (the model is busy; another run asks the same), and one that it
        does not (the model will never take the request).
        """
        while True:
            call = await self._reserve(question, key, book)
            if isinstance(call, NotReserved):
                if call.why == "held":
                    after = timedelta(seconds=call.seconds + 1)
                    raise ApplicationError(call.sentence, type=QUESTION_HELD, next_retry_delay=after)
                return call
            try:
                answer, usage = await self._model.ask(question)
            except NoAnswer as error:
                await self._failed(call, CallOutcome.refused, error)
            except MalformedAnswer as error:
                await self._failed(call, CallOutcome.malformed, error)
            except ModelBusy as error:
                outcome = CallOutcome.busy if error.usage is not None else CallOutcome.unavailable
                await self._failed(call, outcome, error)
                pause = None if error.pause is None else timedelta(seconds=error.pause)
                raise ApplicationError(f"the model: {error.reason}", type=MODEL_BUSY, next_retry_delay=pause) from None
            except ModelRejected as error:
                await self._failed(call, CallOutcome.rejected, error)
                raise ApplicationError(f"the model: {error.reason}", type=MODEL_REJECTED, non_retryable=True) from None
            else:
                return Answered(key, call, answer, usage)

    async def settle(self, answered: Answered[Answer], keep: Keep) -> None:
        """Settle the call of an answer, and let ``keep`` store the answer in the same transaction."""

        async def settling(session: AsyncSession) -> None:
            await self._write_end(session, answered.call, CallOutcome.answered, answered.usage)
            await keep(session, await store.model_calls.cost_of(session, answered.key))

        await self._surely(settling)

    async def _reserve(self, question: Question[Answer], key: str, book: str) -> ReservedCall | NotReserved:
        wanted = ReservationRequest(
            key=key,
            book=book,
            model=self._model.name,
            version=question.version,
            most=highest_cost(question, self._model.prices),
            budget=self._budget,
            attempts=ATTEMPTS,
            hold=timedelta(seconds=self._model.timeout) + HOLD_BEYOND_TIMEOUT,
            run=activity.info().workflow_run_id or "",
        )
        async with transaction(self._sessions) as session:
            call = await store.model_calls.reserve(session, wanted)
            if isinstance(call, NotReserved) and call.why == "over_budget":
                about = f"{datetime.now(UTC):%Y-%m-%d}"
                event = (EventType.research_over_budget, about, {"book": book, "reason": call.sentence})
                await store.events.append(session, event)
        return call

    async def _failed(self, call: ReservedCall, outcome: CallOutcome, error: ModelError) -> None:
        async def settling(session: AsyncSession) -> None:
            await self._write_end(session, call, outcome, error.usage, error.reason)

        await self._surely(settling)

    async def _write_end(
        self,
        session: AsyncSession,
        call: ReservedCall,
        outcome: CallOutcome,
        usage: Usage | None,
        reason: str | None = None,
    ) -> None:
        cost = None if usage is None else self._model.prices.cost(usage)
        await store.model_calls.settle(session, call, outcome, usage, cost, reason)

    async def _surely(self, settling: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """Settle in a transaction; where the database is away, try again for half a minute.

        The call has been paid for: if its answer is lost here, the question is asked and paid for again.
        """
        for pause in (*SETTLE_PAUSES_SECONDS, None):
            try:
                async with transaction(self._sessions) as session:
                    await settling(session)
                return
            except ApplicationError as error:
                if error.type != DATABASE_AWAY or pause is None:
                    raise
                await asyncio.sleep(pause)
