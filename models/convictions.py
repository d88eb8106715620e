"""Convictions, what was believed when a position was opened: messages first, then tables."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, Double, Index, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Finite, Identifier, Score, Utc


class Conviction(BaseModel):
    """What was believed when the position was opened. May hold only its id, if it was recorded before."""

    model_config = ConfigDict(frozen=True)

    conviction_id: Identifier
    cycle_id: Identifier | None = None
    magnitude: Finite | None = None
    domain_scores: Annotated[dict[Identifier, Score], Field(max_length=256)] | None = None


class RecordedConviction(Conviction):
    """A conviction sent ahead of its position, or after its close, so that the close need only name its id."""

    book: BookId
    symbol: Identifier
    cycle_id: Identifier
    domain_scores: Annotated[dict[Identifier, Score], Field(min_length=1, max_length=256)]
    formed_at: Utc | None = Field(
        default=None, description="When it was formed: a position that was opened before was not opened on it."
    )


class ConvictionStatus(StrEnum):
    """Where an attribution's domain scores came from.

    ``unknown``: none is on record yet. ``formed_later``: it was formed after the entry, so it was not believed then.
    """

    inline = "inline"
    recorded = "recorded"
    unknown = "unknown"
    formed_later = "formed_later"
    none = "none"


class RejectedConviction(BaseModel):
    """A conviction that was refused. ``index`` is its place in what was sent."""

    index: int
    reason: str


class ConvictionsReport(BaseModel):
    """How many convictions were new, how many were on record (the first recording stands), and which were refused.

    ``completed``: closes on record that had been waiting for one of them.
    """

    added: int
    already_recorded: int
    completed: int = 0
    rejected: list[RejectedConviction] = []


def _recorded_at() -> Any:
    return Col(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")))


def _recorded_index(table: str) -> Index:
    """The catch-up reads what was recorded since the last one. Rows are recorded in time order, so BRIN is tiny."""
    return Index(f"{table}_recorded", "recorded_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"})


class ConvictionScore(SQLModel, table=True):
    """A conviction, and the outcome of the trade that it opened (+1 or -1; of several trades, the last to close).

    ``formed_at``: when it was formed, null where nobody said.
    """

    __tablename__ = "conviction_scores"
    __table_args__ = (_recorded_index("conviction_scores"),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    cycle_id: str | None = Col(default=None, sa_column=Column(Text))
    symbol: str = Col(sa_column=Column(Text, nullable=False))
    magnitude: float | None = Col(default=None, sa_column=Column(Double))
    outcome: int | None = Col(default=None, sa_column=Column(SmallInteger))
    outcome_ts: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    recorded_at: datetime = _recorded_at()
    formed_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class ConvictionLog(SQLModel, table=True):
    """The domain scores of a cycle for a symbol, as they stood at entry. The first recording stands.

    ``formed_at``: when they were formed, null where nobody said.
    """

    __tablename__ = "conviction_log"
    __table_args__ = (_recorded_index("conviction_log"),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    cycle_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    symbol: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    domain_scores: dict[str, float] = Col(sa_column=Column(JSONB, nullable=False))
    recorded_at: datetime = _recorded_at()
    formed_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class ConvictionWatermark(SQLModel, table=True):
    """When a catch-up last looked for convictions that came after their close: one row, or none before the first."""

    __tablename__ = "conviction_watermark"
    __table_args__ = (CheckConstraint("one_row", name="conviction_watermark_one_row"),)

    one_row: bool = Col(default=True, sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    looked_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
