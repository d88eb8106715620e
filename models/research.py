"""Research: what a language model is asked about closed trades, what it may answer, and what that cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Direction, Finite, Identifier, Plain, Utc
from closeloop.models.values import Text as Prose

# -- what is asked for --------------------------------------------------------------------------------------------


class ResearchRequest(BaseModel):
    """Study the live closes since the last run: of one book or of all; now, or as it was at ``as_of``."""

    book: BookId | None = None
    as_of: Utc | None = None


class DueBooks(BaseModel):
    """Books with something to study."""

    books: list[str] = []


class BooksAsked(BaseModel):
    """Which books have something to study?"""

    as_of: Utc


class BookStudy(BaseModel):
    """One book's part of a run."""

    book: BookId
    as_of: Utc


class Studied(BaseModel):
    """What came of one level in one book."""

    trades: int = 0
    hypotheses: int = 0
    given_up: int = 0
    left: int = Field(default=0, description="Closes that wait for the next run.")
    stopped: str | None = Field(default=None, description="Why nothing more is asked today.")

    def plus(self, other: "Studied") -> "Studied":
        """Both levels together."""
        return Studied(
            trades=self.trades + other.trades,
            hypotheses=self.hypotheses + other.hypotheses,
            given_up=self.given_up + other.given_up,
            left=self.left + other.left,
            stopped=self.stopped or other.stopped,
        )


class ResearchReport(BaseModel):
    """What a run did."""

    books: dict[str, Studied] = {}

    @property
    def sentence(self) -> str:
        """``research: 3 trades read, 2 hypotheses tested, 1 given up``, and why it stopped."""
        studied = list(self.books.values())
        line = (
            f"research: {sum(s.trades for s in studied)} trades read, "
            f"{sum(s.hypotheses for s in studied)} hypotheses tested, {sum(s.given_up for s in studied)} given up"
        )
        if left := sum(s.left for s in studied):
            line += f", {left} closes left"
        stops = sorted({s.stopped for s in studied if s.stopped})
        return "; ".join([line, *stops])


# -- facts: all that a prompt may hold ----------------------------------------------------------------------------

Fact = Annotated[str, Field(max_length=200)]
DIMENSIONS = 40


class Record(BaseModel):
    """How a number of trades went. ``avg_rr`` is in R, over the trades whose risk is known."""

    trades: int
    wins: int
    avg_rr: float | None


class TradeFacts(BaseModel):
    """A closed trade, as the service computed it: the data of a level-1 prompt."""

    symbol: Fact
    direction: Direction
    closed_at: datetime
    time_held_hours: float
    rr: float | None = Field(description="In R; null where the risk is unknown.")
    won: bool
    max_drawdown_pct: float | None
    max_favorable_pct: float | None
    regime_at_entry: Fact | None
    exit_reason: Fact | None
    producers: Annotated[list[Fact], Field(max_length=20)] = []
    patterns: Annotated[list[Fact], Field(max_length=20)] = []
    scope: Annotated[dict[Fact, Fact], Field(max_length=DIMENSIONS)] = {}


class ReadTrade(BaseModel):
    """A trade to be read, beside the record of its book until then."""

    trade: TradeFacts
    book: Record


class LessonFacts(BaseModel):
    """A lesson, as the mining found it."""

    pattern_key: Fact
    action_category: Fact
    scope: dict[Fact, Fact]
    n: int
    avg_rr: float
    effect: float
    actionable: bool


class GroupFacts(BaseModel):
    """Trades of one pattern and action, and of each value of each dimension within: what a condition can name."""

    pattern_key: Fact
    action_category: Fact
    record: Record
    dimensions: dict[Fact, dict[Fact, Record]]


class JudgedFacts(BaseModel):
    """A hypothesis that was stated before, and what became of it."""

    pattern_key: Fact
    action_category: Fact
    scope: dict[Fact, Fact]
    claim: Fact
    status: Fact


class BookFacts(BaseModel):
    """The data of a level-2 prompt: recent live trades (newest first), the lessons, what can be tested, what was."""

    recent: list[TradeFacts]
    lessons: list[LessonFacts]
    groups: list[GroupFacts]
    tested: list[JudgedFacts] = []


# -- answers: all that a model may say ----------------------------------------------------------------------------

Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="lower case words joined by - or _")]


class TradeReading(BaseModel):
    """Level 1: semantic tags and an observation on one trade."""

    model_config = ConfigDict(extra="forbid")

    tags: Annotated[list[Tag], Field(min_length=1, max_length=8)]
    observation: Annotated[Prose, Field(min_length=1, max_length=800, description="one to three plain sentences")]


class Condition(BaseModel):
    """``dimension = value``."""

    model_config = ConfigDict(extra="forbid")

    dimension: Annotated[Identifier, Field(description="a dimension exactly as the data names it")]
    value: Annotated[Identifier, Field(description="one of its values exactly as the data has it")]


class Claim(StrEnum):
    """What a hypothesis says of the trades that meet its condition, against the others of the same pattern."""

    better = "better"
    worse = "worse"


class Hypothesis(BaseModel):
    """A statement that the service can test."""

    model_config = ConfigDict(extra="forbid")

    statement: Annotated[Prose, Field(min_length=1, max_length=500, description="one plain sentence")]
    pattern_key: Annotated[Identifier, Field(description="a pattern_key exactly as the data has it")]
    action_category: Annotated[Identifier, Field(description="its action_category exactly as the data has it")]
    conditions: Annotated[list[Condition], Field(min_length=1, max_length=3)]
    claim: Annotated[Claim, Field(description="how such trades do in R against the others of the same pattern")]

    @property
    def scope(self) -> dict[str, str]:
        """The condition as a lesson's scope has it."""
        return {condition.dimension: condition.value for condition in self.conditions}


class BookReading(BaseModel):
    """Level 2: a report, and hypotheses."""

    model_config = ConfigDict(extra="forbid")

    report: Annotated[Prose, Field(min_length=1, max_length=3000, description="a few plain sentences")]
    hypotheses: Annotated[list[Hypothesis], Field(max_length=5)]


Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A prompt. ``system`` is ours; ``text`` holds data, fenced, which is never an instruction."""

    version: str
    system: str
    text: str
    answer: type[Answer]
    max_tokens: int


@dataclass(frozen=True)
class Sample:
    """R-multiples of trades, each counted once: their number, mean and sample variance (0 where undefined)."""

    n: int
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class Day:
    """The same for a UTC day of entry: number and sum of R of the trades that meet a condition, and of the others."""

    n: int
    total: float
    others: int
    others_total: float


class Verdict(BaseModel):
    """What the trades say of a hypothesis. ``effect`` is in R: trades that meet the condition minus the others."""

    status: Literal["supported", "refuted", "untestable"]
    reason: str
    n: int = Field(default=0, description="Trades that meet the condition.")
    others: int = Field(default=0, description="Trades of the same pattern and action that do not.")
    effect: Finite | None = None
    effect_low: Finite | None = None
    effect_high: Finite | None = None
    p: float | None = Field(default=None, description="Two-sided, before it is adjusted for the hypotheses beside it.")


# -- what is stored -----------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a row of research is."""

    observation = "observation"
    report = "report"
    hypothesis = "hypothesis"


class Status(StrEnum):
    """What became of it."""

    stated = "stated"
    supported = "supported"
    refuted = "refuted"
    untestable = "untestable"
    given_up = "given_up"


class CallOutcome(StrEnum):
    """How a call of the model ended. What was not billed for certain costs nothing; the rest is counted."""

    answered = "answered"
    refused = "refused"
    malformed = "malformed"
    busy = "busy"
    unavailable = "unavailable"
    rejected = "rejected"
    lost = "lost"


# After these the same question may be put again, a little.
NO_ANSWER = (CallOutcome.refused, CallOutcome.malformed)


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; input includes what was cached."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Reserved:
    """The right to one call."""

    call_id: int


@dataclass(frozen=True)
class NotReserved:
    """No call: ``why`` says so; ``seconds`` is how long another run may still hold the question."""

    why: Literal["over_budget", "exhausted", "held"]
    sentence: str
    seconds: float = 0.0


class ResearchView(BaseModel):
    """A row of research as it is shown."""

    id: int
    book: str
    position_id: str | None
    kind: Kind
    level: int
    module: str
    status: Status
    content: Mapping[str, Any]
    model: str
    prompt_version: str
    input_tokens: int
    output_tokens: int
    cost_usd: Plain
    as_of: datetime
    run: str
    policy_hash: str
    created_at: datetime


class Spending(BaseModel):
    """Calls of a day (UTC). ``spent_usd`` counts calls under way at the most that they can cost."""

    spent_usd: Plain
    calls: int
    outcomes: dict[str, int]


class LlmLearning(SQLModel, table=True):
    """What a model, or the statistics in its place, said. A proposal: it changes no number by itself."""

    __tablename__ = "llm_learning"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("llm_learning_book", "book_id", "level", "position_id"),
    )

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    dedupe_key: str = Col(sa_column=Column(Text, nullable=False, unique=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    position_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    kind: str = Col(sa_column=Column(Text, nullable=False))
    level: int = Col(sa_column=Column(SmallInteger, nullable=False))
    module: str = Col(sa_column=Column(Text, nullable=False))
    status: str = Col(sa_column=Column(Text, nullable=False))
    content: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    model: str = Col(sa_column=Column(Text, nullable=False))
    prompt_version: str = Col(sa_column=Column(Text, nullable=False))
    input_tokens: int = Col(sa_column=Column(Integer, nullable=False))
    output_tokens: int = Col(sa_column=Column(Integer, nullable=False))
    cost_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    run: str = Col(sa_column=Column(Text, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime | None = Col(
        default=None,
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    )


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


class ResearchWatermark(SQLModel, table=True):
    """Up to where (``attributions.attributed_at``) every live close of a book has been studied."""

    __tablename__ = "llm_watermarks"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    studied_until: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
