"""What the market was when positions were opened, where their closes did not say: tables, messages and reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field
from sqlalchemy import Column, DateTime, Double, ForeignKeyConstraint, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Identifier


class ContextSource(StrEnum):
    """Where a context comes from that the engine did not send."""

    levers = "levers"
    """The levers that the close names."""
    backfilled = "backfilled"
    """States on record as of the opening, looked up later."""


@dataclass(frozen=True)
class FoundContext:
    """What the record has of the market at an opening. ``states``: scope dimension to state, such as btc_macro: S3."""

    source: ContextSource
    states: Mapping[str, str]
    a_value: float | None
    e_value: float | None


class ContextView(BaseModel):
    """A context that was filled in, as it is shown. ``scope`` dimensions that the close stated itself are its own."""

    book: str
    position_id: str
    source: ContextSource
    levers_id: str | None
    as_of: datetime
    known_then: bool
    regime_states: dict[str, str]
    A_value: float | None
    E_value: float | None


class MarketContext(SQLModel, table=True):
    """What the record has of the market at the opening of an attributed position; ``positions`` keeps what was sent.

    ``known_then``: all of it was known at the opening; false where a state was computed, or levers were asked for,
    afterwards, from bars that had ended by then. ``policy_hash``: of the section that A and E were computed with.
    ``filled_by``: id of the workflow run or import.
    """

    __tablename__ = "market_contexts"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "position_id"], ["attributions.book_id", "attributions.position_id"]),
        # Levers that a close was filled from never leave.
        ForeignKeyConstraint(["levers_id"], ["market_levers.levers_id"]),
        Index("market_contexts_levers", "levers_id", postgresql_where=text("levers_id IS NOT NULL")),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    source: str = Col(sa_column=Column(Text, nullable=False))
    levers_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    known_then: bool
    states: dict[str, str] = Col(sa_column=Column(JSONB, nullable=False))
    a_value: float | None = Col(default=None, sa_column=Column(Double))
    e_value: float | None = Col(default=None, sa_column=Column(Double))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    filled_by: str = Col(sa_column=Column(Text, nullable=False))
    filled_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class FillContexts(BaseModel):
    """Fill in the contexts of the next closes of a book, by position, after the given one."""

    book: BookId
    after: Identifier | None = None


class FilledContexts(BaseModel):
    """What became of closes: ``filled`` in; ``sent`` by the engine; filled before (``already``); without states then.

    ``without_ae``: of those filled, how many have states alone, because the close does not say (in a way that is
    known) which timeframe is traded. ``actions``: pattern trade events that have another scope now.
    """

    closes: int = 0
    filled: int = 0
    without_ae: int = 0
    sent: int = 0
    already: int = 0
    no_states: int = 0
    actions: int = 0
    no_states_first: datetime | None = Field(default=None, description="The earliest opening without states.")
    no_states_last: datetime | None = Field(default=None, description="The latest opening without states.")
    last: str | None = Field(default=None, description="The last position that was looked at; null: there was none.")


class MarketBackfillRequest(BaseModel):
    """Fill in what closes of a book did not say. ``so_far`` is of the runs before a continue-as-new."""

    book: BookId
    so_far: "MarketBackfillReport | None" = None


class MarketBackfillReport(FilledContexts):
    """What became of a book's closes."""

    book: str

    def add(self, batch: FilledContexts) -> None:
        """Count a batch."""
        for name in ("closes", "filled", "without_ae", "sent", "already", "no_states", "actions"):
            setattr(self, name, getattr(self, name) + getattr(batch, name))
        ends = [t for t in (self.no_states_first, batch.no_states_first) if t is not None]
        self.no_states_first = min(ends, default=None)
        ends = [t for t in (self.no_states_last, batch.no_states_last) if t is not None]
        self.no_states_last = max(ends, default=None)
        self.last = batch.last or self.last

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        parts = [f"book {self.book}: {self.closes:,} closes, {self.filled:,} filled in from states as of their opening"]
        if self.without_ae:
            parts.append(f"{self.without_ae:,} of them without A and E, as the traded timeframe is not known")
        if self.already:
            parts.append(f"{self.already:,} had been")
        if self.sent:
            parts.append(f"{self.sent:,} came with states of their own")
        if self.no_states and self.no_states_first and self.no_states_last:
            parts.append(
                f"{self.no_states:,} not, opened {self.no_states_first:%Y-%m-%d %H:%M} to "
                f"{self.no_states_last:%Y-%m-%d %H:%M} UTC: there are no published states as of then"
            )
        return "; ".join(parts)
