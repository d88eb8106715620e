"""Decisions of an engine and what became of the market after them: messages first, then tables.

A thesis is a decision with a recommendation and a confidence. A candidate of a discovery is one too, of type IGNORE:
nobody stated anything of it, so it is never scored, but the market's returns after it are kept.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from sqlalchemy import Boolean, Column, DateTime, Double, ForeignKeyConstraint, Index, Integer, Numeric, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.parameters import Arm
from closeloop.models.values import (
    BookId,
    Finite,
    Identifier,
    NonNegative,
    Plain,
    PositiveMoney,
    UnitFloat,
    Utc,
    plain_json,
)
from closeloop.models.values import Text as PlainText

MOST_CANDIDATES = 5_000
MOST_FEATURES = 100
HORIZONS_DAYS = (1, 7, 30)
"""After which the market's return is taken (days)."""


class DecisionType(StrEnum):
    """What was decided. SELL, TRIM and LIQUIDATE are right where the market falls, the others where it rises."""

    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"
    IGNORE = "IGNORE"
    BUY_MORE = "BUY_MORE"
    TRIM = "TRIM"
    LIQUIDATE = "LIQUIDATE"

    @property
    def side(self) -> int:
        """-1 where a fall is favourable, else 1."""
        return -1 if self in (DecisionType.SELL, DecisionType.TRIM, DecisionType.LIQUIDATE) else 1


class DecisionSource(StrEnum):
    """Where a decision comes from."""

    discovery = "discovery"
    thesis = "thesis"
    manual = "manual"


def _upper(value: Any) -> Any:
    return value.strip().upper().replace(" ", "_") if isinstance(value, str) else value


Recommendation = Annotated[DecisionType, BeforeValidator(_upper)]
FreeForm = Annotated[dict[str, Any], AfterValidator(plain_json)]
Features = Annotated[dict[Identifier, Finite | None], Field(max_length=MOST_FEATURES)]
LongText = Annotated[PlainText, Field(max_length=20_000)]


class Thesis(BaseModel):
    """What was recommended and why. Further fields are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    recommendation: Recommendation
    confidence: UnitFloat | None = Field(default=None, description="In [0, 1], before any multiplier of closeloop's.")
    thesis: LongText | None = Field(default=None, description="The reasoning.")
    ai_generated: bool | None = None

    @model_validator(mode="after")
    def _can_be_stored(self) -> "Thesis":
        plain_json(self.model_extra or {})
        return self


class DecisionMessage(BaseModel):
    """A decision as an engine sends it; the fields of ``thesis`` may also stand at the top of the message."""

    model_config = ConfigDict(frozen=True)

    book: BookId = "default"
    decision_id: Identifier
    position_id: Identifier | None = Field(default=None, description="The position that it led to, if any.")
    symbol: Identifier
    timestamp: Utc | None = Field(default=None, description="When it was made; absent: when it arrived.")
    thesis: Thesis
    source: Literal["thesis", "manual"] = "thesis"
    market_regime: Identifier | None = None
    market_conditions: FreeForm | None = None
    discovery_features: Features | None = None
    confidence_used: UnitFloat | None = Field(default=None, description="After a multiplier, as it was acted on.")
    arm: Arm | None = Field(default=None, description="As adaptive-params gave it.")
    params_version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    position_size_pct: NonNegative | None = None
    entry_price: PositiveMoney | None = None
    expected_volume_ratio: NonNegative | None = None
    catalyst_materialized: bool | None = Field(default=None, description="The engine's word.")

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, values: Any) -> Any:
        if (
            not isinstance(values, Mapping)
            or "recommendation" not in values
            or isinstance(values.get("thesis"), Mapping)
        ):
            return values
        names = ("recommendation", "confidence", "thesis", "ai_generated")
        inner = {name: values[name] for name in names if name in values}
        return {name: value for name, value in values.items() if name not in names} | {"thesis": inner}


class Candidate(BaseModel):
    """One candidate of a discovery."""

    model_config = ConfigDict(frozen=True)

    symbol: Identifier
    score: Finite | None = None
    rank: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    action_tag: Identifier | None = Field(default=None, description="Such as trade_ready, monitor, watchlist.")
    features: Features = {}
    arm: Arm | None = None
    params_version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class DiscoveryMessage(BaseModel):
    """What a run of an engine's discovery found: every candidate, taken or not."""

    model_config = ConfigDict(frozen=True)

    book: BookId = "default"
    discovery_id: Identifier
    timestamp: Utc | None = Field(default=None, description="When it was made; absent: when it arrived.")
    universe_size: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=MOST_CANDIDATES)]
    pipeline_stats: FreeForm | None = None
    market_conditions: FreeForm | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "DiscoveryMessage":
        seen: set[str] = set()
        for number, candidate in enumerate(self.candidates):
            if candidate.symbol in seen:
                raise ValueError(f"candidates.{number}.symbol: {candidate.symbol[:80]} is there twice")
            seen.add(candidate.symbol)
        return self


class ChangeType(StrEnum):
    """What happened to a position."""

    OPEN = "OPEN"
    CLOSE = "CLOSE"
    MODIFY = "MODIFY"


class TradeChangeMessage(BaseModel):
    """A change of a position as an engine sends it. A CLOSE whose ``change_data`` is a whole close is also that."""

    model_config = ConfigDict(frozen=True)

    book: BookId = "default"
    change_id: Identifier
    symbol: Identifier
    change_type: Annotated[ChangeType, BeforeValidator(_upper)]
    timestamp: Utc | None = None
    change_data: FreeForm = {}


class DecisionView(BaseModel):
    """A decision on record and its outcome, as far as it is known. Returns and excursions in percent."""

    book: str
    decision_id: str
    symbol: str
    decided_at: datetime
    timestamp_stated: bool
    decision_type: DecisionType
    decision_source: DecisionSource
    confidence: float | None
    confidence_used: float | None
    arm: str | None
    params_version: int | None
    market_regime: str | None
    ai_generated: bool | None
    position_id: str | None
    discovery_id: str | None
    score: float | None
    rank: int | None
    action_tag: str | None
    return_1d: float | None
    return_7d: float | None
    return_30d: float | None
    max_favorable_excursion: float | None
    max_adverse_excursion: float | None
    volatility_realized: float | None
    coverage: float | None
    price_at_evaluation: Plain | None
    evaluation_date: datetime | None
    thesis_accuracy_score: float | None
    position_closed: bool
    exit_price: Plain | None
    exit_reason: str | None
    unresolvable: list[str]


class DecisionsAdded(BaseModel):
    """What became of decisions that were given."""

    added: int
    already_recorded: int
    rejected: list["RejectedDecision"]


class RejectedDecision(BaseModel):
    """A decision that was refused: its index (from 0) in what was sent, and why."""

    index: int
    reason: str


class FillReport(BaseModel):
    """What a run filled in. ``pending``: horizons that are due and have no price yet."""

    as_of: datetime
    decisions: int = Field(default=0, description="Decisions that were looked at.")
    filled: int = Field(default=0, description="Returns that were written.")
    closed: int = Field(default=0, description="Decisions that got the exit of their position.")
    pending: int = 0
    unresolvable: int = Field(default=0, description="Horizons that were given up, 7 days after they were due.")


class FillRequest(BaseModel):
    """Fill in outcomes of decisions. ``as_of`` null: the scheduled time."""

    as_of: Utc | None = None


class LearningDecision(SQLModel, table=True):
    """See DecisionMessage and Candidate. ``next_due_at``: when an outcome has to be looked for next; null: never again.

    ``awaits_close``: it names a position of which no close has been taken into its outcome yet.
    """

    __tablename__ = "learning_decisions"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("learning_decisions_due", "symbol", "decided_at", postgresql_where=text("next_due_at IS NOT NULL")),
        Index("learning_decisions_order", "book_id", "decided_at", "decision_id"),
        Index("learning_decisions_await", "book_id", "position_id", postgresql_where=text("awaits_close")),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    decision_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    symbol: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    decided_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    timestamp_stated: bool = Col(sa_column=Column(Boolean, nullable=False))
    received_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    decision_type: str = Col(sa_column=Column(Text, nullable=False))
    decision_source: str = Col(sa_column=Column(Text, nullable=False))
    confidence: float | None = Col(default=None, sa_column=Column(Double))
    confidence_used: float | None = Col(default=None, sa_column=Column(Double))
    arm: str | None = Col(default=None, sa_column=Column(Text))
    params_version: int | None = Col(default=None, sa_column=Column(Integer))
    market_regime: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    ai_generated: bool | None = Col(default=None, sa_column=Column(Boolean))
    position_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    thesis_data: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    discovery_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    score: float | None = Col(default=None, sa_column=Column(Double))
    rank: int | None = Col(default=None, sa_column=Column(Integer))
    action_tag: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    discovery_features: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    market_conditions: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    position_size_pct: float | None = Col(default=None, sa_column=Column(Double))
    entry_price: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    expected_volume_ratio: float | None = Col(default=None, sa_column=Column(Double))
    catalyst_materialized: bool | None = Col(default=None, sa_column=Column(Boolean))
    next_due_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    awaits_close: bool = Col(sa_column=Column(Boolean, nullable=False))


class LearningOutcome(SQLModel, table=True):
    """What became of the market after a decision, a row a decision. A return is written once and never changed.

    Returns in percent, unsigned by side; excursions in percent of the price at the decision, >= 0, signed by side;
    ``volatility_realized`` in percent a day; ``coverage``: the share of the excursions' window that candles cover.
    ``unresolvable``: horizons that were given up.
    """

    __tablename__ = "learning_outcomes"
    __table_args__ = (
        ForeignKeyConstraint(
            ["book_id", "decision_id"], ["learning_decisions.book_id", "learning_decisions.decision_id"]
        ),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    decision_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    return_1d: float | None = Col(default=None, sa_column=Column(Double))
    return_7d: float | None = Col(default=None, sa_column=Column(Double))
    return_30d: float | None = Col(default=None, sa_column=Column(Double))
    max_favorable_excursion: float | None = Col(default=None, sa_column=Column(Double))
    max_adverse_excursion: float | None = Col(default=None, sa_column=Column(Double))
    volatility_realized: float | None = Col(default=None, sa_column=Column(Double))
    coverage: float | None = Col(default=None, sa_column=Column(Double))
    price_at_decision: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    price_at_evaluation: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    evaluation_date: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    thesis_accuracy_score: float | None = Col(default=None, sa_column=Column(Double))
    volume_pattern_accuracy: float | None = Col(default=None, sa_column=Column(Double))
    catalyst_materialized: bool | None = Col(default=None, sa_column=Column(Boolean))
    position_closed: bool = Col(sa_column=Column(Boolean, nullable=False))
    exit_price: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    exit_reason: str | None = Col(default=None, sa_column=Column(Text))
    unresolvable: list[str] = Col(sa_column=Column(ARRAY(Text), nullable=False))
    filled_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))


class LearningDiscovery(SQLModel, table=True):
    """A run of an engine's discovery; its candidates are in learning_decisions."""

    __tablename__ = "learning_discoveries"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("learning_discoveries_order", "book_id", "discovered_at"),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    discovery_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    discovered_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    timestamp_stated: bool = Col(sa_column=Column(Boolean, nullable=False))
    universe_size: int | None = Col(default=None, sa_column=Column(Integer))
    candidates: int = Col(sa_column=Column(Integer, nullable=False))
    pipeline_stats: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    market_conditions: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    content: str = Col(sa_column=Column(Text, nullable=False))


class LearningTradeChange(SQLModel, table=True):
    """See TradeChangeMessage."""

    __tablename__ = "learning_trade_changes"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("learning_trade_changes_order", "book_id", "changed_at"),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    change_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    symbol: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    change_type: str = Col(sa_column=Column(Text, nullable=False))
    changed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    timestamp_stated: bool = Col(sa_column=Column(Boolean, nullable=False))
    change_data: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
