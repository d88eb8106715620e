"""Forecasts and their outcomes: messages first, then tables."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    Numeric,
    Text,
    text,
)
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.assets import canonical_asset
from closeloop.models.prices import PricesFetched
from closeloop.models.values import BookId, Identifier, Plain, UnitFloat, Utc
from closeloop.models.values import Text as PlainText

MAX_HORIZON = timedelta(days=365)
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([mhd])", re.ASCII)


def seconds_of(length: str) -> int:
    """Seconds of a length such as ``5m``, ``4h`` or ``1d``. Raises ValueError.

    >>> seconds_of("4h")
    14400
    """
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise ValueError("must be a positive number of minutes, hours or days, such as 30m, 4h or 1d")
    return int(found[1]) * _SECONDS[found[2]]


@lru_cache(maxsize=1024)
def canonical_length(length: str) -> str:
    """The one spelling of a length, in the largest unit that divides it. Raises ValueError.

    >>> [canonical_length(length) for length in ("60m", "1h", "24h", "1440m", "90m")]
    ['1h', '1h', '1d', '1d', '90m']
    """
    seconds = seconds_of(length)
    unit = next(unit for unit in ("d", "h", "m") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _horizon(value: str) -> str:
    if seconds_of(value) > MAX_HORIZON.total_seconds():
        raise ValueError("must be at most 365d")
    return value


Horizon = Annotated[str, AfterValidator(_horizon)]


class ForecastAction(StrEnum):
    """What a producer forecasts: the price rises, falls, stays within the flat band; or nothing, with a reason."""

    long = "long"
    short = "short"
    flat = "flat"
    no_forecast = "no_forecast"


@dataclass(frozen=True, order=True)
class ForecastKey:
    """Names a forecast."""

    book: str
    forecast_id: str


class Forecast(BaseModel):
    """What a producer forecasts for an asset over a horizon, with its confidence that the action will prove right.

    ``asset`` and ``horizon`` are as the producer spells them: forecasts of ``BTCUSDT`` over ``60m`` are recorded and
    scored as those of ``BTC/USDT`` over ``1h``. ``regime`` is a label that the producer chooses; its scores are also
    reported by it.
    """

    model_config = ConfigDict(frozen=True)

    forecast_id: Identifier
    book: BookId
    producer_id: Identifier
    asset: Identifier
    horizon: Horizon
    action: ForecastAction
    confidence: UnitFloat | None = Field(default=None, description="May be absent in a no_forecast only.")
    issued_at: Utc
    regime: Identifier | None = None
    abstention_reason: Annotated[PlainText, Field(max_length=1_000)] | None = Field(
        default=None, description="Why there is no forecast; only with the action no_forecast."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.action == ForecastAction.no_forecast:
            return self
        if self.confidence is None:
            raise ValueError("confidence: needed unless the action is no_forecast")
        if self.abstention_reason is not None:
            raise ValueError("abstention_reason: belongs to the action no_forecast only")
        return self

    @model_validator(mode="after")
    def _elapses(self) -> Self:
        if self.issued_at.year > 9990:
            raise ValueError("issued_at: must be before the year 9990")
        return self

    @property
    def key(self) -> ForecastKey:
        """What the forecast is stored under."""
        return ForecastKey(self.book, self.forecast_id)

    @property
    def spellings(self) -> dict[str, str | None]:
        """Its asset and horizon under their one name, and as they were sent where that differs."""
        asset, horizon = canonical_asset(self.asset), canonical_length(self.horizon)
        return {
            "asset": asset,
            "horizon": horizon,
            "asset_sent": None if asset == self.asset else self.asset,
            "horizon_sent": None if horizon == self.horizon else self.horizon,
        }

    @property
    def target_at(self) -> datetime:
        """When its horizon has elapsed."""
        return self.issued_at + timedelta(seconds=seconds_of(self.horizon))


class ForecastReport(BaseModel):
    """What became of a forecast that was sent."""

    forecast_id: str
    already_recorded: bool


class UnacceptableForecast(BaseModel):
    """A forecast that could not be stored: its number in what was sent, from 0, and why."""

    index: int
    reason: str


class ForecastsAdded(BaseModel):
    """What became of forecasts that were sent."""

    added: int
    already_recorded: int
    rejected: list[UnacceptableForecast]


class ForecastState(StrEnum):
    """Where a forecast stands. ``pending``: its horizon may have elapsed, but there is no outcome yet."""

    pending = "pending"
    resolved = "resolved"
    abstained = "abstained"
    unresolvable = "unresolvable"


class ForecastView(BaseModel):
    """A forecast and where it stands; ``reason`` says why one that is due has no outcome.

    ``asset`` and ``horizon`` are what it is recorded under, ``asset_sent`` and ``horizon_sent`` as they were sent.
    """

    book: str
    forecast_id: str
    producer_id: str
    asset: str
    asset_sent: str
    horizon: str
    horizon_sent: str
    action: ForecastAction
    confidence: float | None
    issued_at: datetime
    target_at: datetime
    regime: str | None
    abstention_reason: str | None
    state: ForecastState
    reason: str | None
    attempts: int | None
    next_attempt_at: datetime | None

    @property
    def key(self) -> ForecastKey:
        """What the forecast is stored under."""
        return ForecastKey(self.book, self.forecast_id)


class OutcomeView(BaseModel):
    """How a forecast turned out. ``return_pct``: 5 is 5 %; the scores are Brier and log score (nats)."""

    book: str
    forecast_id: str
    producer_id: str
    asset: str
    horizon: str
    action: ForecastAction
    confidence: float
    issued_at: datetime
    target_at: datetime
    price_at_issue: Plain
    price_at_target: Plain
    return_pct: float
    direction_correct: bool
    brier_score: float
    log_score: float
    regime: str | None
    issue_candle_ends_at: datetime | None = Field(
        default=None, description="End of the candle whose close the price is; null of outcomes before it was kept."
    )
    issue_candle_seconds: int | None = Field(default=None, description="That candle's length.")
    issue_price_source: str | None = Field(default=None, description="Where that candle came from.")
    target_candle_ends_at: datetime | None = None
    target_candle_seconds: int | None = None
    target_price_source: str | None = None
    revision: int = Field(default=0, description="How often it was recomputed from other candles.")
    resolved_at: datetime
    resolved_by: str
    policy_hash: str


class ForecastDetails(ForecastView):
    """A forecast with its outcome; null while there is none."""

    outcome: OutcomeView | None


class ResolutionRequest(BaseModel):
    """Resolve what is due as of an instant (null: when the run was scheduled, or its start)."""

    as_of: Utc | None = None
    ask_again: bool = Field(
        default=False, description="Ask the price source also for what it was asked for lately without success."
    )
    continued: "ResolutionContinuation | None" = Field(
        default=None, description="Of a run that goes on where another one stopped: never sent by a client."
    )


class ResolutionReport(BaseModel):
    """What a resolution did, and what it had to leave."""

    as_of: datetime
    resolved: int = 0
    abstained: int = 0
    pending: int = Field(default=0, description="Due, but without an outcome yet.")
    unresolvable: int = Field(default=0, description="Given up by this resolution.")
    reasons: dict[str, int] = Field(default_factory=dict, description="Why forecasts are pending, with counts.")
    candles_fetched: int = 0
    failed: dict[str, str] = Field(
        default_factory=dict,
        description="Books whose performance, recalibration or meta-producer is not up to date, and why.",
    )
    workflow_id: str = ""

    @property
    def sentence(self) -> str:
        """For the audit trail."""
        line = f"{self.resolved} resolved, {self.pending} pending, {self.unresolvable} given up"
        line += f", {self.abstained} abstentions" if self.abstained else ""
        line += "".join(f"; {count} x {reason}" for reason, count in list(self.reasons.items())[:5])
        return line + "".join(f"; book {book}: {reason}" for book, reason in list(self.failed.items())[:5])


class ResolvePages(BaseModel):
    """Resolve what is due from the prices on record."""

    resolution_id: str
    as_of: datetime
    after: tuple[datetime, str, str] | None = Field(default=None, description="(target_at, book, id) to begin after.")
    fetched: PricesFetched | None = Field(
        default=None, description="The source has been asked: record why what has no price has none."
    )


class PagesResolved(BaseModel):
    """How many forecasts had no price (``left``), and after which one to go on; null at the end."""

    left: int
    after: tuple[datetime, str, str] | None


class ResolutionContinuation(BaseModel):
    """Where a run of a resolution stopped, for the run that continues it.

    ``after``: the last forecast that it looked at. ``left``: how many had no price until then. ``fetched``: what the
    price source had answered; null if it was not asked yet.
    """

    resolution_id: str
    after: tuple[datetime, str, str]
    left: int
    fetched: PricesFetched | None


class ResolutionKey(BaseModel):
    """Names a resolution."""

    resolution_id: str
    as_of: datetime
    workflow_id: str


class StoredForecast(SQLModel, table=True):
    """A forecast as it was sent, its asset and horizon under their one name.

    ``..._sent``: the sender's spelling, null where it is that name. ``shadow``: what the meta-producer would have said.
    """

    __tablename__ = "forecasts"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("forecasts_ensemble", "book_id", "asset", "horizon", "issued_at"),
        Index("forecasts_issued", "book_id", "issued_at"),
        Index("forecasts_abstentions", "book_id", "target_at", postgresql_where=text("action = 'no_forecast'")),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    forecast_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    asset_sent: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    horizon_sent: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    action: str = Col(sa_column=Column(Text, nullable=False))
    confidence: float | None = Col(default=None, sa_column=Column(Double))
    issued_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    target_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    regime: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    abstention_reason: str | None = Col(default=None, sa_column=Column(Text))
    shadow: bool = Col(default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    recorded_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class UnresolvedForecast(SQLModel, table=True):
    """The queue of forecasts without an outcome. Looking for those that are due never reads the resolved ones."""

    __tablename__ = "forecast_resolution_state"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "forecast_id"], ["forecasts.book_id", "forecasts.forecast_id"]),
        Index(
            "forecast_resolution_state_due",
            "target_at",
            "book_id",
            "forecast_id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("forecast_resolution_state_asset", "asset", "state"),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    forecast_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    target_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    state: str = Col(sa_column=Column(Text, nullable=False, server_default=text("'pending'")))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    attempts: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    first_attempt_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    next_attempt_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    revision: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


class ResolutionRun(SQLModel, table=True):
    """A run of the resolution, and what it did so far."""

    __tablename__ = "resolutions"

    resolution_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    resolved: int = Col(sa_column=Column(BigInteger, nullable=False))
    abstained: int = Col(sa_column=Column(BigInteger, nullable=False))
    given_up: int = Col(sa_column=Column(BigInteger, nullable=False))
    candles: int = Col(sa_column=Column(BigInteger, nullable=False))
    started_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class StoredOutcome(SQLModel, table=True):
    """The outcome of a forecast, written once; ``revision`` counts how often it was recomputed on request."""

    __tablename__ = "forecast_outcomes"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "forecast_id"], ["forecasts.book_id", "forecasts.forecast_id"]),
        Index("forecast_outcomes_target", "book_id", "target_at"),
        Index("forecast_outcomes_stream", "book_id", "producer_id", "asset", "horizon", "target_at"),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    forecast_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    action: str = Col(sa_column=Column(Text, nullable=False))
    confidence: float = Col(sa_column=Column(Double, nullable=False))
    issued_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    target_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    price_at_issue: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    price_at_target: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    return_pct: float = Col(sa_column=Column(Double, nullable=False))
    direction_correct: bool = Col(sa_column=Column(Boolean, nullable=False))
    brier_score: float = Col(sa_column=Column(Double, nullable=False))
    log_score: float = Col(sa_column=Column(Double, nullable=False))
    regime: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    shadow: bool = Col(default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    issue_candle_ends_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    issue_candle_seconds: int | None = Col(default=None, sa_column=Column(Integer))
    issue_price_source: str | None = Col(default=None, sa_column=Column(Text))
    target_candle_ends_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    target_candle_seconds: int | None = Col(default=None, sa_column=Column(Integer))
    target_price_source: str | None = Col(default=None, sa_column=Column(Text))
    revision: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    resolved_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    resolved_by: str = Col(sa_column=Column(Text, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
