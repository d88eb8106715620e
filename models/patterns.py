"""Patterns: the executed actions of closed trades, in which circumstances they were taken, and what they came to."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Column, DateTime, Double, ForeignKeyConstraint, Index, Integer, Numeric, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import Finite, Identifier, Utc

Scope = dict[str, str]
"""Dimension to value: the circumstances of an action, or the conditions of a lesson or an override."""


class ExecutedAction(BaseModel):
    """An executed action of a trade, as ``entry_context.actions`` lists it."""

    pattern_key: Identifier
    action_category: Identifier
    at: Utc | None = None


class LearnMissed(BaseModel):
    """Let the learners take in what they missed: of these books, or of all."""

    books: list[str] | None = None


class LearnMissedReport(BaseModel):
    """How many outcomes each learner took in, and for those that failed, why they last did."""

    learned: dict[str, int] = {}
    failed: dict[str, str] = {}


class TimeframeCoefficient(BaseModel):
    """How much better (or worse) a timeframe's trades are than all of them; ``rr_*`` are decayed means in R."""

    weight: Finite
    rr_short: float
    rr_long: float
    n: int


class Coefficients(BaseModel):
    """Coefficients of a book as they are shown; ``config_data`` is what an engine reads."""

    book: str
    module_id: str
    config_data: dict[str, Any]
    policy_hash: str
    updated_at: datetime


class Unlearned(SQLModel, table=True):
    """An outcome that a learner has still to take in: written with the attribution, deleted with the learning.

    ``attempts``: how often the catch-up has failed on it by itself; it is not tried again before ``next_attempt_at``.
    """

    __tablename__ = "unlearned"

    learner: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    attempts: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    next_attempt_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class PatternTradeEvent(SQLModel, table=True):
    """An executed action of a closed trade, with the circumstances in which it was taken."""

    __tablename__ = "pattern_trade_events"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "position_id"], ["attributions.book_id", "attributions.position_id"]),
        Index("pattern_trade_events_group", "book_id", "pattern_key", "action_category", "closed_at"),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    action_index: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    action_category: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    symbol: str = Col(sa_column=Column(Text, nullable=False))
    scope: Scope = Col(sa_column=Column(JSONB, nullable=False))
    rr: float | None = Col(default=None, sa_column=Column(Double))
    pnl: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    acted_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    opened_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    closed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class LearningConfig(SQLModel, table=True):
    """Coefficients that an engine reads (``config_data``), and the decayed sums that they are made of."""

    __tablename__ = "learning_configs"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    module_id: str = Col(sa_column=Column(Text, primary_key=True))
    config_data: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    sums: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    updated_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
