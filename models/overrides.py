"""Overrides: lessons made into factors of size and shifts of thresholds, and what they say of an action in a scope."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import Column, DateTime, Double, ForeignKeyConstraint, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.bounded import BOOKS
from closeloop.models.patterns import Scope
from closeloop.models.values import BookId, Identifier, Utc, plain_json


class OverrideStatus(StrEnum):
    """``active`` overrides speak; ``pending`` ones wait for an operator; the others are closed."""

    active = "active"
    pending = "pending"
    rejected = "rejected"
    ended = "ended"


class OverrideRequest(BaseModel):
    """Bring the overrides of a book (null: of every book) in line with its lessons, as of an instant."""

    model_config = ConfigDict(frozen=True)

    book: BookId | None = None
    as_of: Utc | None = None


class MaterializeOverrides(BaseModel):
    """The same for one book."""

    book: BookId
    as_of: Utc


class Materialized(BaseModel):
    """What became of one book's overrides."""

    book: str
    as_of: datetime
    active: int = 0
    created: int = 0
    pending: int = 0
    ended: int = 0
    policy_hash: str = ""

    @property
    def sentence(self) -> str:
        """For the audit trail."""
        return (
            f"{self.book}: {self.active} in force, {self.created} new, {self.ended} ended, "
            f"{self.pending} wait for an operator"
        )


class OverrideReport(BaseModel):
    """What became of the overrides, by book; ``failed`` says which books were left, and why.

    The first 1,000 books are listed, ``unlisted`` counts the others.
    """

    books: list[Materialized] = []
    unlisted: int = 0
    failed: dict[str, str] = {}

    def add(self, made: Materialized) -> None:
        """Take in what became of a book's overrides."""
        if len(self.books) < BOOKS:
            self.books.append(made)
        else:
            self.unlisted += 1


class OverrideView(BaseModel):
    """An override of size and thresholds in a scope."""

    override_id: str
    book: str
    pattern_key: str
    action_category: str
    scope: Scope
    size_multiplier: float
    threshold_adjustments: dict[str, float]
    confidence: float
    expires_at: datetime
    lesson_id: str
    lesson_version: int
    status: OverrideStatus
    reason: str | None
    run: str
    as_of: datetime
    deadline: datetime | None = Field(default=None, description="Until when it waits, or waited, for an operator.")
    verdict: str | None = Field(description="approve or reject; expired where nobody decided; null: nobody was asked.")
    decided_by: str | None
    decided_at: datetime | None
    note: str | None
    created_at: datetime
    ended_at: datetime | None
    policy_hash: str


@dataclass(frozen=True)
class ProposedOverride:
    """An override with a lesson's numbers, to be stored. ``anchor`` is the first of its conditions (see PmOverride)."""

    override_id: str
    book_id: str
    pattern_key: str
    action_category: str
    scope: Scope
    anchor: str
    size_multiplier: float
    threshold_adjustments: dict[str, float]
    confidence: float
    expires_at: datetime
    lesson_id: str
    lesson_version: int
    run: str
    as_of: datetime
    policy_hash: str
    status: OverrideStatus = OverrideStatus.active
    deadline: datetime | None = None


class MatchedOverride(BaseModel):
    """An override that matched, and its weight in the mean: confidence x (1 + conditions)^specificity_power."""

    override_id: str
    scope: Scope
    multiplier: float
    weight: float


class OverrideMatch(BaseModel):
    """What the overrides in force change for an action in a scope. Where none matched, the multiplier is exactly 1."""

    size_multiplier: float
    threshold_adjustments: dict[str, float]
    spoke: list[MatchedOverride]


class OverrideMatchRequest(BaseModel):
    """Which overrides match an action in a scope, which is read like the ``scope`` of an ``entry_context``?"""

    book: BookId
    pattern_key: Identifier
    action_category: Identifier
    scope: Annotated[dict[str, JsonValue], Field(max_length=1_000), AfterValidator(plain_json)]


class PmOverride(SQLModel, table=True):
    """A lesson made into an instruction for sizing. ``anchor`` is the first of its conditions.

    No GIN index serves "contained in" (``<@``) without visiting every row that shares a condition with the scope.
    An override can only match where its anchor does: a B-tree finds those, and their scopes are compared.
    """

    __tablename__ = "pm_overrides"
    __table_args__ = (
        ForeignKeyConstraint(["lesson_id"], ["learning_lessons.lesson_id"]),
        Index("pm_overrides_active", "lesson_id", unique=True, postgresql_where=text("status = 'active'")),
        Index("pm_overrides_pending", "lesson_id", unique=True, postgresql_where=text("status = 'pending'")),
        Index("pm_overrides_waiting", "deadline", postgresql_where=text("status = 'pending'")),
        Index(
            "pm_overrides_match",
            "book_id",
            "pattern_key",
            "action_category",
            "anchor",
            postgresql_where=text("status = 'active'"),
        ),
        Index(
            "pm_overrides_match_ended",
            "book_id",
            "pattern_key",
            "action_category",
            "anchor",
            postgresql_where=text("status = 'ended'"),
        ),
    )

    override_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    action_category: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    scope: Scope = Col(sa_column=Column(JSONB, nullable=False))
    anchor: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    size_multiplier: float = Col(sa_column=Column(Double, nullable=False))
    threshold_adjustments: dict[str, float] = Col(sa_column=Column(JSONB, nullable=False))
    confidence: float = Col(sa_column=Column(Double, nullable=False))
    expires_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    lesson_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    lesson_version: int = Col(sa_column=Column(Integer, nullable=False))
    status: str = Col(sa_column=Column(Text, nullable=False))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    run: str = Col(sa_column=Column(Text, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    deadline: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    verdict: str | None = Col(default=None, sa_column=Column(Text))
    decided_by: str | None = Col(default=None, sa_column=Column(Text))
    decided_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    note: str | None = Col(default=None, sa_column=Column(Text))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    ended_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
