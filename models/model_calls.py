"""Calls of the language model: what is asked, how a call ended, and what it cost."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Identity, Index, Integer, Numeric, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import Plain

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A prompt. ``system`` is ours; ``text`` holds data, fenced, which is never an instruction."""

    version: str
    system: str
    text: str
    answer: type[Answer]
    max_tokens: int


class CallOutcome(StrEnum):
    """How a call of the model ended. A call costs nothing only where it was certainly not billed."""

    answered = "answered"
    refused = "refused"
    malformed = "malformed"
    busy = "busy"
    unavailable = "unavailable"
    rejected = "rejected"
    lost = "lost"


UNUSABLE_ANSWERS = (CallOutcome.refused, CallOutcome.malformed)
"""Ends of calls without an answer that can be used, after which the same question may be asked again, a few times."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; input includes what was cached."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class QuestionCost:
    """What the calls of a question cost together (USD)."""

    cost: Decimal
    usage: Usage


@dataclass(frozen=True)
class ReservationRequest:
    """Ask to reserve a call: ``most`` is the most that it can cost, ``budget`` the budget of a day (USD).

    ``key`` names the question, which is given up after ``attempts`` calls without a usable answer. For as long as
    ``hold`` nobody else asks the same question.
    """

    key: str
    book: str
    model: str
    version: str
    most: Decimal
    budget: Decimal
    attempts: int
    hold: timedelta
    run: str


@dataclass(frozen=True)
class ReservedCall:
    """The right to one call."""

    call_id: int


@dataclass(frozen=True)
class NotReserved:
    """No call: ``why`` says so; ``seconds`` is how long another run may still hold the question."""

    why: Literal["over_budget", "exhausted", "held"]
    sentence: str
    seconds: float = 0.0


class DaySpending(BaseModel):
    """Calls of a day (UTC). ``spent_usd`` counts calls under way at the most that they can cost."""

    spent_usd: Plain
    calls: int
    outcomes: dict[str, int]


class LlmCall(SQLModel, table=True):
    """A call of the model: the most that it can cost is reserved before, what it did cost is settled after.

    A call that was never settled (its process died) counts at what was reserved; until ``held_until`` nobody else asks.
    """

    __tablename__ = "llm_calls"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("llm_calls_question", "dedupe_key"),
        Index("llm_calls_reserved_at", "reserved_at"),
    )

    call_id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    dedupe_key: str = Col(sa_column=Column(Text, nullable=False))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    model: str = Col(sa_column=Column(Text, nullable=False))
    prompt_version: str = Col(sa_column=Column(Text, nullable=False))
    reserved_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    outcome: str | None = Col(default=None, sa_column=Column(Text))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    cost_usd: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    input_tokens: int | None = Col(default=None, sa_column=Column(Integer))
    output_tokens: int | None = Col(default=None, sa_column=Column(Integer))
    run: str = Col(sa_column=Column(Text, nullable=False))
    reserved_at: datetime | None = Col(
        default=None,
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    )
    held_until: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    settled_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
