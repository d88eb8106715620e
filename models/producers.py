"""What producers are worth by their forecasts: daily sums, performance, agreement, recalibration, health."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Identifier, NotBoolean, Utc
from closeloop.models.values import Text as PlainText

HEARTBEATS_KEPT_DAYS = 30
"""For so long a heartbeat that is sent again is recognised, and health of an earlier time can be told."""


class PerformanceRequest(BaseModel):
    """Bring performance, agreement and recalibration up to date, as of an instant."""

    as_of: datetime
    books: list[str] | None = Field(default=None, description="Only these; null: every book with outcomes.")


class PerformanceReport(BaseModel):
    """What was brought up to date."""

    books: list[str] = []
    days: int = 0
    recalibrations: list[str] = []
    failed: dict[str, str] = Field(default={}, description="Books that could not be brought up to date, and why.")


class Scores(BaseModel):
    """Scores over the outcomes of a slice (learning/calibration.py); null where undefined, or on too few outcomes.

    ``independent``: as many independent outcomes as they are worth (see there), which intervals (95 %) and standard
    errors count; ``abstentions`` are no outcomes.
    """

    outcomes: int = 0
    correct: int = 0
    independent: int = 0
    abstentions: int = 0
    hit_rate: float | None = None
    hit_low: float | None = None
    hit_high: float | None = None
    mean_confidence: float | None = None
    mean_confidence_se: float | None = None
    brier: float | None = None
    brier_se: float | None = None
    reliability: float | None = None
    resolution: float | None = None
    uncertainty: float | None = None
    within_bin_variance: float | None = None
    within_bin_covariance: float | None = None
    log_score: float | None = None
    log_score_se: float | None = None
    calibration_error: float | None = None
    calibration_error_if_perfect: float | None = None
    correlation: float | None = None


class Slice(NamedTuple):
    """A producer's outcomes of an asset, horizon and regime (the label of its forecasts); an empty one means all."""

    producer_id: str
    asset: str
    horizon: str
    regime: str


class SliceScores(NamedTuple):
    """Scores of a slice, with the sums by bin that its reliability diagram is drawn from."""

    slice: Slice
    scores: Scores
    sums: list[list[float]]


class ReliabilityBin(BaseModel):
    """A point of the reliability diagram: of what was said with about ``mean_confidence``, ``hit_rate`` came true."""

    low: float
    high: float
    outcomes: int
    independent: int
    mean_confidence: float | None
    hit_rate: float | None
    hit_low: float | None
    hit_high: float | None


class HealthView(BaseModel):
    """A producer's health (learning/health.py) over ``window_days``, and beside it the heartbeats of its lifetime.

    ``observations`` and the error rate are of the window; ``successes``, ``failures``, ``lifetime_error_rate`` and what
    follows of all heartbeats.
    """

    state: Literal["unknown", "healthy", "failing", "stale"]
    window_days: int
    observations: int | None
    error_rate: float | None
    error_low: float | None
    error_high: float | None
    staleness_minutes: float | None
    freshness: float | None
    score: float | None
    reason: str
    successes: int | None
    failures: int | None
    lifetime_error_rate: float | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_error: str | None


class SpokenOf(BaseModel):
    """What the outcomes of a window are of, at most 20 of each kind, by name."""

    assets: list[str]
    horizons: list[str]
    regimes: list[str]


class ProducerView(Scores):
    """A producer over the rolling window, of a slice (null: of all assets, horizons or regimes), and its health.

    ``as_of``: the end of the window, null where none was scored yet. Karma is that of now, and null where another time
    was asked for: it is not kept by time. Health is of the time that was asked for.
    """

    id: str = Field(description="The book and the producer: default/ta.")
    book: str
    producer_id: str
    asset: str | None
    horizon: str | None
    regime: str | None
    bins: list[ReliabilityBin]
    as_of: datetime | None
    policy_hash: str | None
    last_outcome_at: datetime | None
    karma: float | None
    health: HealthView


class RecalibrationView(BaseModel):
    """A producer's last map from stated to recalibrated confidence, and the evidence for and against it."""

    book: str
    producer_id: str
    version: int
    adopted: bool
    stated: list[float]
    recalibrated: list[float]
    evidence: dict[str, Any]
    n: int
    as_of: datetime
    policy_hash: str


class CalibrationView(BaseModel):
    """Of what a producer said with a confidence, how much came true; and its last recalibration, adopted or not."""

    book: str
    producer_id: str
    bins: list[ReliabilityBin]
    recalibration: RecalibrationView | None
    outcomes: int
    calibration_error: float | None
    calibration_error_if_perfect: float | None


class PairRates(BaseModel):
    """How two producers agree, and who is right then and otherwise (learning/agreement.py), with 95 % intervals."""

    samples: int
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    hit_agreed: float | None
    hit_agreed_low: float | None
    hit_agreed_high: float | None
    hit_first_disagreed: float | None
    hit_first_disagreed_low: float | None
    hit_first_disagreed_high: float | None
    hit_second_disagreed: float | None
    hit_second_disagreed_low: float | None
    hit_second_disagreed_high: float | None


class PairView(PairRates):
    """Two producers of a book who spoke of the same asset over the same horizon."""

    id: str
    book: str
    asset: str
    horizon: str
    first: str
    second: str
    as_of: datetime
    policy_hash: str


class HeartbeatReceipt(BaseModel):
    """Whether a heartbeat was counted; false: it had been counted before."""

    counted: bool
    heartbeat_id: str


class Heartbeat(BaseModel):
    """A producer's heartbeat: how many of its attempts since the last one succeeded and failed."""

    model_config = ConfigDict(frozen=True)

    heartbeat_id: Identifier | None = Field(
        default=None, description="Sent twice with the same id, it counts once. Null: the workflow's id."
    )
    book: BookId
    producer_id: Identifier
    successes: Annotated[int, Field(ge=0, le=1_000_000), NotBoolean] = 1
    failures: Annotated[int, Field(ge=0, le=1_000_000), NotBoolean] = 0
    at: Utc | None = Field(default=None, description="Null: when it arrived.")
    error: Annotated[PlainText, Field(max_length=1_000)] | None = Field(default=None, description="The last failure.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.successes + self.failures == 0:
            raise ValueError("successes: at least one success or failure is needed")
        return self


class PerformanceWindow(SQLModel, table=True):
    """As of when a book's producers are scored: it never goes backwards. ``written`` counts how often they were."""

    __tablename__ = "performance_windows"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    written: int = Col(sa_column=Column(BigInteger, nullable=False))


class PerformanceDue(SQLModel, table=True):
    """Days (UTC) of a book whose daily sums are not up to date; marked by the transaction that writes outcomes."""

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
    overlap: float = Col(sa_column=Column(Double, nullable=False))
    confidence: float = Col(sa_column=Column(Double, nullable=False))
    confidence_squared: float = Col(sa_column=Column(Double, nullable=False))
    confidence_correct: float = Col(sa_column=Column(Double, nullable=False))
    brier_squared: float = Col(sa_column=Column(Double, nullable=False))
    log_score: float = Col(sa_column=Column(Double, nullable=False))
    log_score_squared: float = Col(sa_column=Column(Double, nullable=False))


class PairDay(SQLModel, table=True):
    """Blocks of a day (``agreement_block_hours``) in which two producers spoke: how often alike, and who was right."""

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
    # An outcome that it was fitted to was corrected since: the next run fits it again.
    outdated: bool = Col(default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false")))


class ProducerHealth(SQLModel, table=True):
    """How a producer's heartbeats went, counted."""

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
    """Heartbeats that were counted, for ``HEARTBEATS_KEPT_DAYS``: one that arrives again changes nothing.

    ``at``: when it came. ``happened_at``, ``successes``, ``failures``, ``error``: what it said; null in those that came
    before these were kept.
    """

    __tablename__ = "producer_heartbeats"
    __table_args__ = (Index("producer_heartbeats_at", "at"),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    heartbeat_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    happened_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    successes: int | None = Col(default=None, sa_column=Column(Integer))
    failures: int | None = Col(default=None, sa_column=Column(Integer))
    error: str | None = Col(default=None, sa_column=Column(Text))
