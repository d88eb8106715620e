"""Forecasts, prices, their outcomes, and what producers are worth by them: messages first, then tables."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from models.values import BookId, Identifier, UnitFloat, Utc
from models.values import Text as PlainText

META = "meta"  # the meta-producer's name: nobody else may use it
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


def _horizon(value: str) -> str:
    if seconds_of(value) > MAX_HORIZON.total_seconds():
        raise ValueError("must be at most 365d")
    return value


Horizon = Annotated[str, AfterValidator(_horizon)]


class Action(StrEnum):
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
    """What a producer believes of an asset over a horizon, with its confidence that the action will prove right."""

    model_config = ConfigDict(frozen=True)

    forecast_id: Identifier
    book: BookId
    producer_id: Identifier
    asset: Identifier
    horizon: Horizon
    action: Action
    confidence: UnitFloat | None = Field(default=None, description="May be absent in a no_forecast only.")
    issued_at: Utc
    regime: Identifier | None = None
    abstention_reason: Annotated[PlainText, Field(max_length=1_000)] | None = Field(
        default=None, description="Why there is no forecast; only with the action no_forecast."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.action == Action.no_forecast:
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
    def target_at(self) -> datetime:
        """When its horizon has elapsed."""
        return self.issued_at + timedelta(seconds=seconds_of(self.horizon))


class ForecastReport(BaseModel):
    """What became of a forecast that was sent."""

    forecast_id: str
    already_recorded: bool


class ForecastState(StrEnum):
    """Where a forecast stands. ``pending``: its horizon may have elapsed, but there is no outcome yet."""

    pending = "pending"
    resolved = "resolved"
    abstained = "abstained"
    unresolvable = "unresolvable"


class ResolutionRequest(BaseModel):
    """Resolve what is due as of an instant (null: when the run was scheduled, or its start)."""

    as_of: Utc | None = None
    ask_again: bool = Field(
        default=False, description="Ask the price source also for what it was asked for lately without success."
    )
    continued: "Continued | None" = Field(
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
    workflow_id: str = ""

    @property
    def sentence(self) -> str:
        """For the audit trail."""
        told = f"{self.resolved} resolved, {self.pending} pending, {self.unresolvable} given up"
        told += f", {self.abstained} abstentions" if self.abstained else ""
        return told + "".join(f"; {count} x {reason}" for reason, count in list(self.reasons.items())[:5])


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


class ResolvePages(BaseModel):
    """Resolve what is due from the prices on record."""

    resolution_id: str
    as_of: datetime
    after: tuple[datetime, str, str] | None = Field(default=None, description="(target_at, book, id) to begin after.")
    fetched: PricesFetched | None = Field(
        default=None, description="The source has been asked: record why what has no price has none."
    )


class PagesResolved(BaseModel):
    """How many forecasts had no price; ``after`` is where to go on, null at the end."""

    left: int
    after: tuple[datetime, str, str] | None


class Continued(BaseModel):
    """Where a resolution stopped: in its passes over what is due, and before or after which answers of the source."""

    resolution_id: str
    after: tuple[datetime, str, str]
    left: int
    fetched: PricesFetched | None


class ResolutionKey(BaseModel):
    """Names a resolution."""

    resolution_id: str
    as_of: datetime
    workflow_id: str


class PerformanceRequest(BaseModel):
    """Bring performance, agreement and recalibration up to date, as of an instant."""

    as_of: datetime
    books: list[str] | None = Field(default=None, description="Only these; null: every book with outcomes.")


class PerformanceReport(BaseModel):
    """What was brought up to date."""

    books: list[str] = []
    days: int = 0
    recalibrations: list[str] = []


class MetaRequest(BaseModel):
    """Let the meta-producer speak, as of an instant."""

    as_of: Utc | None = None
    books: Annotated[list[BookId], Field(max_length=10_000)] | None = None


class MetaReport(BaseModel):
    """What the meta-producer said."""

    emitted: int = 0
    shadowed: int = 0
    abstained: dict[str, int] = {}


class Heartbeat(BaseModel):
    """A producer's sign of life: what it tried since the last, and how that went."""

    model_config = ConfigDict(frozen=True)

    heartbeat_id: Identifier | None = Field(
        default=None, description="Sent twice with the same id, it counts once. Null: the workflow's id."
    )
    book: BookId
    producer_id: Identifier
    successes: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    failures: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    at: Utc | None = Field(default=None, description="Null: when it arrived.")
    error: Annotated[PlainText, Field(max_length=1_000)] | None = Field(default=None, description="The last failure.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.successes + self.failures == 0:
            raise ValueError("successes: at least one success or failure is needed")
        return self


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
    """A range of time of which the source said all that it has: what is missing in it does not exist."""

    __tablename__ = "price_coverage"

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    interval_seconds: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    from_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    to_at: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    told_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class StoredForecast(SQLModel, table=True):
    """A forecast as it was sent. ``shadow``: what the meta-producer would have said."""

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


class ForecastResolution(SQLModel, table=True):
    """What is to be resolved: a row until there is an outcome, so that looking for work never reads history."""

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


class Resolution(SQLModel, table=True):
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
    """The outcome of a forecast: one, whatever happens."""

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
    resolved_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    resolved_by: str = Col(sa_column=Column(Text, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class PerformanceDue(SQLModel, table=True):
    """Days (UTC) of a book whose daily sums are not up to date; marked by whoever writes outcomes."""

    __tablename__ = "performance_due"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    day: Any = Col(sa_column=Column(Date, primary_key=True))


class ProducerDayBin(SQLModel, table=True):
    """Sums over a producer's outcomes of a day (of target times, UTC) in a confidence bin (learning/calibration.py)."""

    __tablename__ = "producer_daily_bins"
    __table_args__ = (Index("producer_daily_bins_day", "book_id", "day"),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    day: Any = Col(sa_column=Column(Date, nullable=False))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    regime: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    bin: int = Col(sa_column=Column(SmallInteger, nullable=False))
    outcomes: int = Col(sa_column=Column(Integer, nullable=False))
    correct: int = Col(sa_column=Column(Integer, nullable=False))
    independent: float = Col(sa_column=Column(Double, nullable=False))
    confidence: float = Col(sa_column=Column(Double, nullable=False))
    confidence_squared: float = Col(sa_column=Column(Double, nullable=False))
    confidence_correct: float = Col(sa_column=Column(Double, nullable=False))
    brier_squared: float = Col(sa_column=Column(Double, nullable=False))
    log_score: float = Col(sa_column=Column(Double, nullable=False))
    log_score_squared: float = Col(sa_column=Column(Double, nullable=False))


class PairDay(SQLModel, table=True):
    """Two producers' shared 2-hour blocks of a day: how often they agreed, and who was right."""

    __tablename__ = "pair_daily"
    __table_args__ = (Index("pair_daily_day", "book_id", "day"),)

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    day: Any = Col(sa_column=Column(Date, nullable=False))
    asset: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    first: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    second: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    horizon_seconds: int = Col(sa_column=Column(Integer, nullable=False))
    samples: int = Col(sa_column=Column(Integer, nullable=False))
    agreed: int = Col(sa_column=Column(Integer, nullable=False))
    agreed_correct_first: int = Col(sa_column=Column(Integer, nullable=False))
    agreed_correct_second: int = Col(sa_column=Column(Integer, nullable=False))
    disagreed_correct_first: int = Col(sa_column=Column(Integer, nullable=False))
    disagreed_correct_second: int = Col(sa_column=Column(Integer, nullable=False))


def _rate() -> Any:
    return Col(default=None, sa_column=Column(Double))


class ProducerPerformance(SQLModel, table=True):
    """A producer's scores over the rolling window; an empty asset, horizon or regime stands for all of them."""

    __tablename__ = "producer_performance"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    horizon: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    regime: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    outcomes: int = Col(sa_column=Column(Integer, nullable=False))
    correct: int = Col(sa_column=Column(Integer, nullable=False))
    independent: int = Col(sa_column=Column(Integer, nullable=False))
    abstentions: int = Col(sa_column=Column(Integer, nullable=False))
    hit_rate: float | None = _rate()
    hit_low: float | None = _rate()
    hit_high: float | None = _rate()
    mean_confidence: float | None = _rate()
    mean_confidence_se: float | None = _rate()
    brier: float | None = _rate()
    brier_se: float | None = _rate()
    reliability: float | None = _rate()
    resolution: float | None = _rate()
    uncertainty: float | None = _rate()
    within_bin_variance: float | None = _rate()
    within_bin_covariance: float | None = _rate()
    log_score: float | None = _rate()
    log_score_se: float | None = _rate()
    calibration_error: float | None = _rate()
    calibration_error_if_perfect: float | None = _rate()
    correlation: float | None = _rate()
    sums: list[Any] = Col(sa_column=Column(JSONB, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class ProducerCorrelation(SQLModel, table=True):
    """How two producers agree on an asset over a horizon, and who is right when they do not."""

    __tablename__ = "producer_correlation"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    horizon: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    first: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    second: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    samples: int = Col(sa_column=Column(Integer, nullable=False))
    agreement: float | None = _rate()
    agreement_low: float | None = _rate()
    agreement_high: float | None = _rate()
    hit_agreed: float | None = _rate()
    hit_agreed_low: float | None = _rate()
    hit_agreed_high: float | None = _rate()
    hit_first_disagreed: float | None = _rate()
    hit_first_disagreed_low: float | None = _rate()
    hit_first_disagreed_high: float | None = _rate()
    hit_second_disagreed: float | None = _rate()
    hit_second_disagreed_low: float | None = _rate()
    hit_second_disagreed_high: float | None = _rate()
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class RecalibrationMap(SQLModel, table=True):
    """A producer's map from stated to recalibrated confidence, with the evidence for and against it."""

    __tablename__ = "recalibration_maps"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    version: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    adopted: bool = Col(sa_column=Column(Boolean, nullable=False))
    stated: list[float] = Col(sa_column=Column(ARRAY(Double), nullable=False))
    recalibrated: list[float] = Col(sa_column=Column(ARRAY(Double), nullable=False))
    evidence: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    n: int = Col(sa_column=Column(Integer, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class ProducerHealth(SQLModel, table=True):
    """A producer's signs of life, counted."""

    __tablename__ = "producer_health"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    successes: int = Col(sa_column=Column(BigInteger, nullable=False))
    failures: int = Col(sa_column=Column(BigInteger, nullable=False))
    last_success_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    last_failure_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    last_error: str | None = Col(default=None, sa_column=Column(Text))


class ProducerHeartbeat(SQLModel, table=True):
    """Signs of life that were counted: the second arrival of one changes nothing."""

    __tablename__ = "producer_heartbeats"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    heartbeat_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))


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
    confidence: float | None = _rate()
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
