"""The meta-producer: what it said, what it would have said, and whether it may speak."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Utc

META = "meta"  # the meta-producer's name: nobody else may use it


class MetaRequest(BaseModel):
    """Let the meta-producer speak, as of an instant."""

    as_of: Utc | None = None
    books: Annotated[list[BookId], Field(max_length=10_000)] | None = None


class MetaReport(BaseModel):
    """What the meta-producer said."""

    emitted: int = 0
    shadowed: int = 0
    abstained: dict[str, int] = {}
    failed: dict[str, str] = Field(default={}, description="Books in which it could not speak, and why.")


class HitRate(BaseModel):
    """``correct`` of ``n`` outcomes: the rate with its Wilson 95 % interval, and the Brier score; null without any."""

    n: int
    correct: int
    brier: float | None
    hit_rate: float | None
    hit_low: float | None
    hit_high: float | None


class MetaScore(HitRate):
    """How what the meta-producer said turned out. ``return_pct``: mean of a call before costs, 5 is 5 %."""

    mean_confidence: float
    return_pct: float | None
    first_at: datetime
    last_at: datetime


class TrackRecord(BaseModel):
    """The gate of a book's meta-producer, what it said or would have said, and how that turned out."""

    book: str
    outcomes: int
    outcomes_needed: int
    gate_open: bool
    mode: Literal["shadow", "live"]
    since: datetime | None
    decided_by: str | None
    said: dict[str, int] = Field(description="How often it emitted, and abstained for which reason.")
    shadow: MetaScore | None
    live: MetaScore | None
    producers_meanwhile: HitRate = Field(description="The producers that it listened to, over the same time.")
    policy_hash: str


class MetaProposalView(BaseModel):
    """A proposal that the meta-producer leaves shadow, with the track record that it was made on."""

    book: str
    number: int
    state: str
    evidence: dict[str, Any]
    proposed_at: datetime
    deadline: datetime
    verdict: str | None
    operator: str | None
    note: str | None
    decided_at: datetime | None
    policy_hash: str


class MetaStatus(TrackRecord):
    """A track record, and the proposal to leave shadow that waits, if one does."""

    proposals: list[MetaProposalView]


class MetaEvidence(BaseModel):
    """What usually followed: ``direction`` in ``k`` of ``n`` episodes of the same state (learning/ensemble.py)."""

    direction: str | None
    k: int
    n: int
    share: float | None
    wilson_low: float | None
    base_rate: float | None


class MetaDecisionView(BaseModel):
    """What the meta-producer said of an asset and horizon, or would have said, why, and how that turned out."""

    id: int
    book: str
    asset: str
    horizon: str
    as_of: datetime
    action: str
    reason: str | None
    confidence: float | None
    state: dict[str, str]
    evidence: MetaEvidence
    forecast_id: str | None
    policy_hash: str
    return_pct: float | None
    direction_correct: bool | None
    brier_score: float | None


class MetaDecision(SQLModel, table=True):
    """What the meta-producer said of an asset and horizon, and why: an emission, in shadow or not, or an abstention."""

    __tablename__ = "meta_decisions"
    __table_args__ = (Index("meta_decisions_book", "book_id", "as_of"),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    dedupe_key: str = Col(sa_column=Column(Text(collation="C"), nullable=False, unique=True))
    action: str = Col(sa_column=Column(Text, nullable=False))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    confidence: float | None = Col(default=None, sa_column=Column(Double))
    state: dict[str, str] = Col(sa_column=Column(JSONB, nullable=False))
    evidence: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    forecast_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class MetaMode(SQLModel, table=True):
    """Whether a book's meta-producer speaks (``live``) or only says what it would have said; no row: it does not."""

    __tablename__ = "meta_modes"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    live: bool = Col(sa_column=Column(Boolean, nullable=False))
    since: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    operator: str = Col(sa_column=Column(Text, nullable=False))
    note: str = Col(sa_column=Column(Text, nullable=False))


class MetaProposal(SQLModel, table=True):
    """A proposal that the meta-producer leaves shadow, with its track record; it waits for an operator."""

    __tablename__ = "meta_proposals"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("meta_proposals_pending", "book_id", unique=True, postgresql_where=text("state = 'pending'")),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    number: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    state: str = Col(sa_column=Column(Text, nullable=False))
    evidence: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    proposed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    deadline: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    verdict: str | None = Col(default=None, sa_column=Column(Text))
    operator: str | None = Col(default=None, sa_column=Column(Text))
    note: str | None = Col(default=None, sa_column=Column(Text))
    decided_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
