"""Prices: candles that ended, and what the source said of those that it does not have."""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
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
    """What became of a file of candles.

    ``replaced``: were on record with other prices, and have the file's now. ``reopened``: forecasts that had been given
    up and are tried again. ``affected``: outcomes that were computed from a replaced candle, and stand as they were
    until they are recomputed.
    """

    asset: str
    interval_seconds: int
    imported: int = 0
    already_recorded: int = 0
    replaced: int = 0
    reopened: int = 0
    affected: int = 0
    provisional: datetime | None = Field(
        default=None, description="End of the last candle, where it may have been going on when the file was written."
    )
    rejected: list[UnacceptableCandle] = []


class PricesDeleted(BaseModel):
    """How many candles were deleted, and how many outcomes were computed from them."""

    asset: str
    deleted: int
    affected: int


class AffectedOutcome(BaseModel):
    """An outcome that was computed from a candle which is not on record any more as it was."""

    book: str
    forecast_id: str
    asset: str
    target_at: datetime
    return_pct: float
    reason: str
    marked_at: datetime


class OutcomesRecomputed(BaseModel):
    """What recomputing did: outcomes ``corrected``; ``unchanged``; ``withdrawn``, as there is no price any more."""

    corrected: int = 0
    unchanged: int = 0
    withdrawn: int = 0


class SourceFailure(BaseModel):
    """An asset for which the price source gave no candles when it was asked last, and when it is asked again."""

    asset: str
    failures: int
    reason: str
    asked_at: datetime
    next_attempt_at: datetime


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
    """A candle: open to close over ``interval_seconds``. Changed only where it is provisional, or an operator says so.

    ``provisional``: it may have been going on when its file was written. No outcome is computed from it.
    ``import_id``: of the import it came from; null where it was fetched, or is older than the record of imports.
    """

    __tablename__ = "price_history"
    __table_args__ = (
        Index(
            "price_history_last",
            "asset",
            text("ends_at DESC"),
            "interval_seconds",
            postgresql_include=["close"],
        ),
        Index("price_history_provisional", "asset", "interval_seconds", postgresql_where=text("provisional")),
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
    import_id: int | None = Col(default=None, sa_column=Column(BigInteger))
    provisional: bool = Col(default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false")))


class StoredPriceImport(SQLModel, table=True):
    """An import of candles. ``written_at``: the file's own time; null where it has none, as of a pipe."""

    __tablename__ = "price_imports"

    import_id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    interval_seconds: int = Col(sa_column=Column(Integer, nullable=False))
    file_name: str | None = Col(default=None, sa_column=Column(Text))
    written_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    imported_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    imported: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    already_recorded: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    replaced: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    rejected: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    first_end: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    last_end: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class PriceGap(SQLModel, table=True):
    """A hole that is real: one import holds the candles that end at ``from_at`` and ``to_at``, and none between."""

    __tablename__ = "price_gaps"

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    interval_seconds: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    from_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    to_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    import_id: int = Col(sa_column=Column(BigInteger, nullable=False))


class PriceRefusal(SQLModel, table=True):
    """Where a row of an import was refused: it would have ended at ``from_at`` = ``to_at``, or somewhere between."""

    __tablename__ = "price_refusals"

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    interval_seconds: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    from_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    to_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    import_id: int = Col(sa_column=Column(BigInteger, nullable=False))


class PriceSourceAsset(SQLModel, table=True):
    """When the price source was last asked for an asset, and when it may be again after it failed for it."""

    __tablename__ = "price_source_assets"

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    asked_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    failures: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    next_attempt_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class OutcomeToRecompute(SQLModel, table=True):
    """An outcome that was computed from a candle which was replaced or deleted since."""

    __tablename__ = "outcomes_to_recompute"
    __table_args__ = (ForeignKeyConstraint(["book_id", "forecast_id"], ["forecasts.book_id", "forecasts.forecast_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    forecast_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    reason: str = Col(sa_column=Column(Text, nullable=False))
    marked_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


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
