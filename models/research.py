"""Research: runs, what was said in them, and how hypotheses fared against the trades."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field
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

from closeloop.models.bounded import BOOKS
from closeloop.models.values import BookId, Finite, Plain, Utc
from closeloop.models.workers import ResearchSetup


class ResearchRequest(BaseModel):
    """Study the live closes since the last run: of one book or of all; now, or as it was at ``as_of``."""

    book: BookId | None = None
    as_of: Utc | None = None


class BooksToStudy(BaseModel):
    """Books with something to study."""

    books: list[str] = []


class BooksToStudyRequest(BaseModel):
    """Which books have something to study?"""

    as_of: Utc


class BookStudy(BaseModel):
    """One book's part of a run."""

    book: BookId
    as_of: Utc


class Studied(BaseModel):
    """What one level of a study did in one book."""

    trades: int = 0
    hypotheses: int = 0
    given_up: int = 0
    left: int = Field(default=0, description="Closes that wait for the next run.")
    stopped: str | None = Field(default=None, description="Why nothing more is asked today.")

    def plus(self, other: "Studied") -> "Studied":
        """The sum of both levels."""
        return Studied(
            trades=self.trades + other.trades,
            hypotheses=self.hypotheses + other.hypotheses,
            given_up=self.given_up + other.given_up,
            left=self.left + other.left,
            stopped=self.stopped or other.stopped,
        )


class ResearchReport(BaseModel):
    """What a run did, by book; ``failed`` says which books could not be studied, and why.

    The first 1,000 books are listed; ``unlisted`` sums up the others, null if there are none.
    """

    books: dict[str, Studied] = {}
    unlisted: Studied | None = None
    failed: dict[str, str] = {}

    def add(self, book: str, studied: Studied) -> None:
        """Take in what was done in a book."""
        if len(self.books) < BOOKS:
            self.books[book] = studied
        else:
            self.unlisted = (self.unlisted or Studied()).plus(studied)

    @property
    def sentence(self) -> str:
        """``research: 3 trades read, 2 hypotheses tested, 1 given up``, and why it stopped."""
        studied = [*self.books.values(), *([self.unlisted] if self.unlisted else [])]
        line = (
            f"research: {sum(s.trades for s in studied)} trades read, "
            f"{sum(s.hypotheses for s in studied)} hypotheses tested, {sum(s.given_up for s in studied)} given up"
        )
        if left := sum(s.left for s in studied):
            line += f", {left} closes left"
        stops = sorted({s.stopped for s in studied if s.stopped})
        return "; ".join([line, *stops, *(f"{book}: {why}" for book, why in self.failed.items())])


@dataclass(frozen=True)
class Sample:
    """R-multiples of trades, each counted once: their number, mean and sample variance (0 where undefined)."""

    n: int
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class DayTotals:
    """R-multiples of the trades of a UTC day of entry: number and sum of those that meet a condition, and of others."""

    n: int
    total: float
    others: int
    others_total: float


class Judgement(BaseModel):
    """What the trades say of a hypothesis. ``effect`` is in R: trades that meet the condition minus the others."""

    status: Literal["supported", "refuted", "untestable"]
    reason: str
    n: int = Field(default=0, description="Trades that meet the condition.")
    others: int = Field(default=0, description="Trades of the same pattern and action that do not.")
    effect: Finite | None = None
    effect_low: Finite | None = None
    effect_high: Finite | None = None
    p: float | None = Field(default=None, description="Two-sided, before it is adjusted for the hypotheses beside it.")


class StatementKind(StrEnum):
    """What a row of research is."""

    observation = "observation"
    report = "report"
    hypothesis = "hypothesis"


class StatementStatus(StrEnum):
    """What became of a statement: hypotheses are tested; ``given_up``: the model gave no usable answer."""

    stated = "stated"
    supported = "supported"
    refuted = "refuted"
    untestable = "untestable"
    given_up = "given_up"


@dataclass(frozen=True)
class Statement:
    """What a model, or the statistics in its place, said: a row to be stored. ``dedupe_key`` names the question."""

    dedupe_key: str
    book_id: str
    position_id: str | None
    kind: StatementKind
    level: int
    model: str
    prompt_version: str
    as_of: datetime
    run: str
    policy_hash: str
    module: str = "pm"
    status: StatementStatus = StatementStatus.stated
    content: Mapping[str, object] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class ResearchView(BaseModel):
    """A row of research as it is shown."""

    id: int
    book: str
    position_id: str | None
    kind: StatementKind
    level: int
    module: str
    status: StatementStatus
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


class ResearchStatus(BaseModel):
    """Who writes, and what of today's budget (UTC) is spent. Money in USD; calls by how they ended.

    Model and budget are what the workers say that they are set up with.
    """

    model: str | None = Field(description="``statistics`` where the worker has no key; null: no worker has spoken.")
    budget_usd_per_day: Plain | None
    spent_today_usd: Plain
    left_today_usd: Plain | None
    calls_today: int
    outcomes_today: dict[str, int]
    workers: dict[str, ResearchSetup] = Field(
        default={}, description="What each worker that lives is set up with, by pid@host. The first one stands above."
    )


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


class ResearchWatermark(SQLModel, table=True):
    """Up to where (``attributions.attributed_at``) every live close of a book has been studied."""

    __tablename__ = "llm_watermarks"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    studied_until: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
