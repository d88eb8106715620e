"""What producers are worth by their forecasts: daily sums, performance, agreement, recalibration, health."""

from datetime import datetime
from typing import Annotated, Any, Self

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

from closeloop.models.values import BookId, Identifier, Utc
from closeloop.models.values import Text as PlainText


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
