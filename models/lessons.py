"""Lessons: what a book's trades say of the circumstances in which they were made."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Boolean, Column, DateTime, Double, ForeignKeyConstraint, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.bounded import BOOKS
from closeloop.models.luck import LessonEvidence
from closeloop.models.patterns import Scope
from closeloop.models.policy import SameTrade
from closeloop.models.values import BookId, Plain, Utc

BOOKS_WITH_GROUPS = 40  # of a report, with the groups that were left


class LessonStatus(StrEnum):
    """``active``: accepted by the selection; ``baseline``: all trades of a group; ``shadow``: significant until an
    accepted lesson explained it; ``retired``: a later run no longer found it."""

    active = "active"
    baseline = "baseline"
    shadow = "shadow"
    retired = "retired"


class LessonRequest(BaseModel):
    """Build the lessons of a book (null: of every book) as of an instant (null: the run's scheduled time)."""

    model_config = ConfigDict(frozen=True)

    book: BookId | None = None
    as_of: Utc | None = None
    force: bool = Field(default=False, description="Mine every group, also those without enough new trades.")
    by_schedule: bool = Field(default=False, description="The work of a period; it is put on record as done.")


class BuildLessons(BaseModel):
    """Build the lessons of one book."""

    book: BookId
    as_of: Utc
    force: bool
    by_schedule: bool = Field(default=False, description="Where later lessons stand already, there is nothing to do.")


class SkippedGroup(BaseModel):
    """A group that was not mined in a run, and why."""

    pattern_key: str
    action_category: str
    reason: str


class BuiltLessons(BaseModel):
    """What a run did in one book; ``version`` is null where no group was due. ``skipped_groups`` names at most 20.

    ``repeated``: trades of the mined groups that are another one again under another id, by the rule ``same_trade``,
    and were left out. ``untold``: conditions that stood out by their trades alone, and could not be told from luck;
    ``strongest`` says which of them stood out most, and what would have told it.
    """

    book: str
    version: int | None = None
    as_of: datetime
    trades: int = 0
    repeated: int = 0
    same_trade: SameTrade = "never"  # as before there was a rule
    groups: int = 0
    candidates: int = 0
    lessons: int = 0
    actionable: int = 0
    shadows: int = 0
    untold: int = 0
    strongest: str | None = None
    retired: int = 0
    skipped: int = 0
    skipped_groups: list[SkippedGroup] = []
    policy_hash: str = ""

    @property
    def sentence(self) -> str:
        """For the audit trail."""
        if self.version is None:
            return f"{self.book}: nothing is due" + (
                f", {self.skipped} groups without enough new trades" * bool(self.skipped)
            )
        again = f"; {self.repeated} more trades are one of these again under another id: mined once"
        return (
            f"{self.book} v{self.version}: {self.groups} groups of {self.trades} trades, {self.candidates} candidates, "
            f"{self.lessons} lessons ({self.actionable} actionable), {self.shadows} shadows, {self.retired} retired"
            + (f"; {self.untold} conditions stood out and could not be told from luck" if self.untold else "")
            + (again if self.repeated else "")
        )


class LessonReport(BaseModel):
    """What a run came to, by book; ``failed`` says which books could not be built, and why.

    The first 1,000 books are listed (of a run of every book, the first 40 with their ``skipped_groups`` and the
    ``strongest`` of what could not be told from luck), ``unlisted`` counts the others.
    """

    books: list[BuiltLessons] = []
    unlisted: int = 0
    failed: dict[str, str] = {}

    def add(self, built: BuiltLessons) -> None:
        """Take in what was done in a book."""
        if len(self.books) >= BOOKS:
            self.unlisted += 1
        elif len(self.books) >= BOOKS_WITH_GROUPS:
            self.books.append(built.model_copy(update={"skipped_groups": [], "strongest": None}))
        else:
            self.books.append(built)


class NothingAccepted(BaseModel):
    """Of ``groups`` that were mined and gave no lesson: how many conditions stood out by their trades alone and could
    not be told from luck, and the ``strongest`` of these with what would have told it."""

    groups: int
    untold: int
    strongest: str | None


class BooksPage(BaseModel):
    """Which books have actions to learn from? The first ``limit`` by name, after the book ``after``."""

    after: str | None = None
    limit: int


class BookNames(BaseModel):
    """Books that have facts to learn from, by name in the order of its bytes."""

    books: list[str]


class LessonView(BaseModel):
    """A lesson: the trades of a group in a scope, against those outside it. Means and effects in R.

    ``effect`` is the mean difference within cells of the lessons accepted before it; ``edge_raw`` is against the
    baseline. ``effect_now`` is what is left of it at ``as_of``, with its interval where it fades (null where no decay
    was seen: nothing of the effect is gone). Decay and edge score are not computed of shadows (null).
    """

    lesson_id: str
    book: str
    pattern_key: str
    action_category: str
    scope: Scope
    n: int
    avg_rr: float
    variance: float | None
    win_rate: float
    edge_raw: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    half_life_hours: float | None
    effect_now: float | None
    effect_now_low: float | None
    effect_now_high: float | None
    p: float | None
    q: float | None
    actionable: bool
    explained_by: str | None = Field(description="The accepted lesson that explains a shadow.")
    status: LessonStatus
    edge_score: float | None
    factors: dict[str, float]
    newest_trade_at: datetime
    version: int = Field(description="The run that last mined it.")
    as_of: datetime
    policy_hash: str


class LessonVersion(BaseModel):
    """What one run said of a lesson."""

    version: int
    as_of: datetime
    n: int
    avg_rr: float
    edge_raw: float
    effect: float | None
    half_life_hours: float | None
    p: float | None
    q: float | None
    actionable: bool
    status: LessonStatus
    edge_score: float | None
    policy_hash: str


class LessonTrade(BaseModel):
    """A trade in a lesson's scope. ``rr`` in R."""

    position_id: str
    symbol: str
    rr: float
    pnl: Plain
    opened_at: datetime
    closed_at: datetime


class TradesSummary(BaseModel):
    """How a number of trades went: mean R with its standard error, share of trades with more than 0 R."""

    n: int
    avg_rr: float | None
    standard_error: float | None
    win_rate: float | None


class LessonPeriod(BaseModel):
    """The lesson's trades from one close to another: their mean R above that of the trades outside the scope."""

    start: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    n: int
    excess_rr: float


class LessonExplanation(BaseModel):
    """A lesson beside the trades in its scope and outside it, as of its newest run; trades in order of closing."""

    lesson: LessonView
    explained_by: LessonView | None
    inside: TradesSummary = Field(serialization_alias="with")
    outside: TradesSummary = Field(serialization_alias="without")
    periods: list[LessonPeriod]
    history: list[LessonVersion] = Field(description="What each run said of it, the oldest first.")
    history_left_before: datetime | None = Field(
        default=None, description="Versions of lessons from before this have left the database; null: none has."
    )
    evidence: LessonEvidence | None = Field(
        description="The luck that was weighed; null of shadows, and of what was mined before it was kept."
    )
    trades: list[LessonTrade]


class LessonRun(SQLModel, table=True):
    """A version of a book's lessons: what it was mined from, and what came out."""

    __tablename__ = "lesson_runs"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("lesson_runs_workflow", "book_id", "workflow_run", unique=True),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    version: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    workflow_run: str = Col(sa_column=Column(Text, nullable=False))
    report: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime | None = Col(
        default=None,
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    )


class LessonGroup(SQLModel, table=True):
    """When a group was last mined, and from how many trades: it is mined again when enough new ones have come."""

    __tablename__ = "lesson_groups"
    __table_args__ = (ForeignKeyConstraint(["book_id", "version"], ["lesson_runs.book_id", "lesson_runs.version"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    action_category: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    trades: int = Col(sa_column=Column(Integer, nullable=False))
    version: int = Col(sa_column=Column(Integer, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class LearningLesson(SQLModel, table=True):
    """What a run says of a scope; the row is of the newest run that mined it, its past is in ``lesson_history``."""

    __tablename__ = "learning_lessons"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "version"], ["lesson_runs.book_id", "lesson_runs.version"]),
        Index("learning_lessons_group", "book_id", "pattern_key", "action_category"),
    )

    lesson_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    action_category: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    scope: Scope = Col(sa_column=Column(JSONB, nullable=False))
    n: int = Col(sa_column=Column(Integer, nullable=False))
    avg_rr: float = Col(sa_column=Column(Double, nullable=False))
    variance: float | None = Col(default=None, sa_column=Column(Double))
    win_rate: float = Col(sa_column=Column(Double, nullable=False))
    edge_raw: float = Col(sa_column=Column(Double, nullable=False))
    effect: float | None = Col(default=None, sa_column=Column(Double))
    effect_low: float | None = Col(default=None, sa_column=Column(Double))
    effect_high: float | None = Col(default=None, sa_column=Column(Double))
    half_life_hours: float | None = Col(default=None, sa_column=Column(Double))
    effect_now: float | None = Col(default=None, sa_column=Column(Double))
    effect_now_low: float | None = Col(default=None, sa_column=Column(Double))
    effect_now_high: float | None = Col(default=None, sa_column=Column(Double))
    p: float | None = Col(default=None, sa_column=Column(Double))
    q: float | None = Col(default=None, sa_column=Column(Double))
    actionable: bool = Col(sa_column=Column(Boolean, nullable=False))
    explained_by: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    status: str = Col(sa_column=Column(Text, nullable=False))
    edge_score: float | None = Col(default=None, sa_column=Column(Double))
    factors: dict[str, float] = Col(sa_column=Column(JSONB, nullable=False))
    evidence: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    newest_trade_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    version: int = Col(sa_column=Column(Integer, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class LessonHistory(SQLModel, table=True):
    """What each run said of a lesson."""

    __tablename__ = "lesson_history"
    __table_args__ = (ForeignKeyConstraint(["lesson_id"], ["learning_lessons.lesson_id"]),)

    lesson_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    version: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    n: int = Col(sa_column=Column(Integer, nullable=False))
    avg_rr: float = Col(sa_column=Column(Double, nullable=False))
    edge_raw: float = Col(sa_column=Column(Double, nullable=False))
    effect: float | None = Col(default=None, sa_column=Column(Double))
    half_life_hours: float | None = Col(default=None, sa_column=Column(Double))
    p: float | None = Col(default=None, sa_column=Column(Double))
    q: float | None = Col(default=None, sa_column=Column(Double))
    actionable: bool = Col(sa_column=Column(Boolean, nullable=False))
    status: str = Col(sa_column=Column(Text, nullable=False))
    edge_score: float | None = Col(default=None, sa_column=Column(Double))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class LearningRegimeWeights(SQLModel, table=True):
    """Weights of the edge score's four factors under a regime signature, learned from the group's trades with it."""

    __tablename__ = "learning_regime_weights"
    __table_args__ = (ForeignKeyConstraint(["book_id", "version"], ["lesson_runs.book_id", "lesson_runs.version"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    action_category: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    regime_signature: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    weights: dict[str, float] = Col(sa_column=Column(JSONB, nullable=False))
    n: int = Col(sa_column=Column(Integer, nullable=False))
    version: int = Col(sa_column=Column(Integer, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
