"""Weights of the market's drivers in a book's levers: what is proposed, what an operator decided, what is in force."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, ForeignKeyConstraint, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.market import MarketState, Timeframe
from closeloop.models.market_worth import MarketEvidence

NO_CHANGE = 1.0
"""The factor of a driver whose weight is the policy's."""


class StateSaid(BaseModel):
    """A state that is told from noise: R more than in the others, with its interval."""

    model_config = ConfigDict(frozen=True)

    state: MarketState
    effect: float
    low: float
    high: float
    q: float


class SeriesSaid(BaseModel):
    """A driver's timeframe with states that are told from noise.

    ``covariance``, in points of A times R, and its interval: whether trades did better in the states in which the
    driver makes A higher.
    """

    model_config = ConfigDict(frozen=True)

    timeframe: Timeframe
    covariance: float
    low: float
    high: float
    states: list[StateSaid]


class DriverChange(BaseModel):
    """A driver's factor, which the policy's weight of it is multiplied with: now (``before``), and as the evidence has
    it (``after``), with why."""

    model_config = ConfigDict(frozen=True)

    driver: str
    before: float
    after: float
    reason: str
    series: list[SeriesSaid]


class DriversProposed(BaseModel):
    """What is proposed for a book's drivers, from its first ``counted`` trades with states; ``max_q``: the highest q
    that was believed at this look."""

    book: str
    counted: int
    first_opened_at: datetime | None
    last_opened_at: datetime | None
    max_q: float
    changes: list[DriverChange]


class DriversAnswer(BaseModel):
    """What came of asking for a proposal: its name, as ``approvals`` takes it, or null and why there is none."""

    proposal: str | None = None
    deadline: datetime | None = None
    sentence: str
    found: DriversProposed
    evidence: MarketEvidence


class DriversView(BaseModel):
    """A book's factors of drivers, with the weights that follow, in force from ``since`` on (version 0: nobody decided,
    all are 1), and the proposal that waits, if one does."""

    book: str
    version: int
    since: datetime | None
    operator: str | None
    note: str | None
    proposal: str | None = Field(description="The proposal that was approved; null: reverted, or nobody decided.")
    policy_weights: dict[str, float]
    factors: dict[str, float]
    weights: dict[str, float]
    waiting: str | None = None
    waits_until: datetime | None = None


class DriverProposal(SQLModel, table=True):
    """A proposal to change a book's factors of drivers; it waits for an operator. ``evidence``: DriversProposed."""

    __tablename__ = "driver_proposals"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("driver_proposals_pending", "book_id", unique=True, postgresql_where=text("state = 'pending'")),
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


class DriverFactors(SQLModel, table=True):
    """A book's factors of drivers, a row for each change: in force from ``since`` to the next version's.

    ``proposal``: the number of the one that was approved; null where an operator went back to the policy's weights.
    """

    __tablename__ = "driver_factors"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    version: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    factors: dict[str, float] = Col(sa_column=Column(JSONB, nullable=False))
    since: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    operator: str = Col(sa_column=Column(Text, nullable=False))
    note: str = Col(sa_column=Column(Text, nullable=False))
    proposal: int | None = Col(default=None, sa_column=Column(Integer))
