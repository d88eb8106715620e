"""Prices: candles that ended, and what the source said of those that it does not have."""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field
from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Numeric,
    Text,
    text,
)
from sqlmodel import Field as Col
from sqlmodel import SQLModel


class FetchPrices(BaseModel):
    """Ask the price source for what is due and has no price."""

    resolution_id: str
    as_of: datetime
    ask_again: bool


class PricesFetched(BaseModel):
    """What the source gave, and what it said of what it gave nothing for."""

    candles: int = 0
    ranges: int = 0
    more: bool = Field(default=False, description="There is more to ask for than one run of the activity takes.")
    answered: dict[str, list[tuple[datetime, datetime]]] = Field(
        default={}, description="Instants that it was asked for and answered: from, until (exclusive), by asset."
    )
    failures: dict[str, str] = Field(default={}, description="What it said instead of prices, by asset.")
    unknown: list[str] = Field(default=[], description="Assets that it does not know.")
    silence: str | None = Field(default=None, description="Why it was not asked for the rest.")


class UnacceptableCandle(BaseModel):
    """A candle that was not stored, and why; ``line`` is that of the file, null where the candle is on record."""

    line: int | None
    reason: str


class PriceImport(BaseModel):
    """What became of a file of candles; ``reopened``: forecasts that had been given up and are tried again."""

    asset: str
    interval_seconds: int
    imported: int = 0
    already_recorded: int = 0
    reopened: int = 0
    rejected: list[UnacceptableCandle] = []


class PriceSeries(BaseModel):
    """What candles of an asset and interval are on record."""

    id: str = Field(description="The asset and the interval in seconds: ADA/BTC/300.")
    asset: str
    interval_seconds: int
    candles: int
    first_end: datetime
    last_end: datetime
    sources: list[str]


class PriceCandle(SQLModel, table=True):
    """A candle that ended: open to close over ``interval_seconds``. Never changed once it is stored."""

    __tablename__ = "price_history"
    __table_args__ = (
        Index(
            "price_history_last",
            "asset",
            text("ends_at DESC"),
            "interval_seconds",
            postgresql_include=["close"],
        ),
        CheckConstraint("close > 0 AND close < 'Infinity'", name="price_history_positive"),
    )

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    interval_seconds: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    ends_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    open: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    high: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    low: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    close: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    volume: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    source: str = Col(sa_column=Column(Text, nullable=False))


class PriceCoverage(SQLModel, table=True):
    """A range of time for which the source gave every candle it has: a candle that is missing in it does not exist."""

    __tablename__ = "price_coverage"

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    interval_seconds: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    from_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    to_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    told_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
