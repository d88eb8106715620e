"""Positions, convictions, attributions and karma: messages first, then tables."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_serializer, model_validator
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.convictions import Conviction, ConvictionStatus
from closeloop.models.values import (
    MAX_MESSAGE_BYTES,
    BookId,
    Currency,
    Direction,
    Identifier,
    Money,
    NonNegative,
    Plain,
    PositiveMoney,
    SignalDirection,
    UnitFloat,
    Utc,
    plain_json,
    utc_text,
)
from closeloop.models.values import Text as PlainText

# Types of the errors with which a close's workflow fails; they are an interface.
POSITION_CONFLICT = "PositionConflict"  # other content is on record under the same id
POSITION_REFUSED = "PositionRefused"  # the close lies in the future
BOOK_ARCHIVED = "BookArchived"  # the book was removed
CURRENCY_CONFLICT = "CurrencyConflict"  # the book's money is in another currency
MAX_ID_BYTES = 200


class NotedField(BaseModel):
    """An optional field that was left out of a close, as the message names it (``signals.0.producer_id``), and why."""

    model_config = ConfigDict(frozen=True)

    field: PlainText
    reason: PlainText


class AcceptedSignal(BaseModel):
    """A producer's signal that the engine accepted for this trade."""

    model_config = ConfigDict(frozen=True)

    signal_id: Identifier
    producer_id: Identifier
    domain: Identifier | None = None
    direction: SignalDirection | None = None
    confidence: UnitFloat | None = None
    contribution_weight: NonNegative = Field(default=1.0, description="Kept as sent; nothing is computed from it yet.")


class PositionKey(NamedTuple):
    """Identifies a position. Keys sort as PostgreSQL sorts them, by the bytes of their texts."""

    book: BookId
    position_id: Identifier


class ClosedPosition(BaseModel):
    """A closed position as an engine sends it; the field names are the interface (see README, "Messages").

    Money and prices are decimals in the book's currency; ``*_pct`` are percent of entry notional (0.4 = 0.4 %). A price
    may be zero or negative: futures have closed below zero, options and predictions end at 0.
    """

    model_config = ConfigDict(frozen=True)

    book: BookId
    position_id: Identifier
    symbol: Identifier
    direction: Direction
    opened_at: Utc
    closed_at: Utc
    entry_price: Money
    exit_price: Money
    size: PositiveMoney = Field(description="In units of the base currency; the sum of the entries.")
    realized_pnl: Money = Field(description="Net of fees, funding and slippage, of the whole position.")
    currency: Currency | None = Field(default=None, description="Of the money: a book has one, the first stated.")
    risk: PositiveMoney | None = Field(
        default=None, description="Money at risk at entry: what one R is. Null where there is no stop."
    )
    max_drawdown_pct: NonNegative | None = None
    max_favorable_pct: NonNegative | None = None
    regime_at_entry: Identifier | None = None
    exit_reason: Identifier | None = None
    conviction: Conviction | None = None
    signals: Annotated[tuple[AcceptedSignal, ...], Field(max_length=1000)] = ()
    entry_context: Annotated[dict[str, JsonValue], AfterValidator(plain_json)] | None = None
    position_key: Literal["id", "id+opened_at"] = Field(
        default="id",
        exclude_if=lambda key: key == "id",
        description="What identifies the position within its book: opened_at too, where an engine uses ids again.",
    )
    noted: Annotated[tuple[NotedField, ...], Field(max_length=100)] = Field(
        default=(),
        exclude_if=lambda noted: not noted,
        description="What a door left out of the message as it was sent; reported, and no part of the close.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.closed_at < self.opened_at:
            raise ValueError("closed_at: must not be before opened_at")
        if self.position_key != "id" and len(self.key.position_id.encode()) > MAX_ID_BYTES:
            raise ValueError("position_id: must be at most 172 bytes long where opened_at is part of the key")
        if len(self.model_dump_json(exclude_unset=True).encode()) > MAX_MESSAGE_BYTES:
            raise ValueError(f"message: must be at most {MAX_MESSAGE_BYTES // 1024} KiB of JSON")
        return self

    @property
    def key(self) -> PositionKey:
        """What identifies the position. With opened_at, its id on record is ``p-1@2026-01-01T00:00:00Z``."""
        if self.position_key == "id":
            return PositionKey(self.book, self.position_id)
        return PositionKey(self.book, f"{self.position_id}@{utc_text(self.opened_at)}")

    @property
    def producers(self) -> tuple[str, ...]:
        """The producers with at least one accepted signal on the trade, sorted, each once."""
        return tuple(sorted({signal.producer_id for signal in self.signals}))


class KarmaStep(BaseModel):
    """One producer's karma before and after one outcome."""

    producer_id: str
    before: float
    after: float


class PositionOutcome(BaseModel):
    """What became of a position: the attribution (docs/algorithms.md, section 1)."""

    book: str
    position_id: str
    symbol: str
    direction: Direction
    opened_at: datetime
    closed_at: datetime
    realized_pnl: Plain
    rr: float | None = Field(description="R-multiple: realised PnL / risk at entry; null where the risk is unknown.")
    time_held_hours: float
    max_drawdown_pct: float | None
    max_favorable_pct: float | None
    direction_correct: bool
    regime_at_entry: str | None
    conviction_id: str | None
    conviction_status: ConvictionStatus
    domain_scores_at_entry: dict[str, float] | None
    cycle_id: str | None = Field(
        default=None, description="Of the conviction, where the close did not bring its scores."
    )
    completed_at: datetime | None = Field(
        default=None, description="When a conviction that came after its close was taken in; null where none did."
    )
    producers: list[str]
    attributed_at: datetime
    attributed_by: str = Field(description="Id of the workflow run or import that wrote the attribution.")
    policy_hash: str

    @property
    def key(self) -> PositionKey:
        """What identifies the position."""
        return PositionKey(self.book, self.position_id)

    @property
    def sign(self) -> int:
        """y, as docs/algorithms.md calls it: +1 where the trade made money, else -1."""
        return 1 if self.direction_correct else -1


class LearnReport(BaseModel):
    """Which learners have taken in a close, and why others failed; a catch-up lets these try again."""

    learned: list[str] = []
    failed: dict[str, str] = {}


class AttributedClose(BaseModel):
    """Answer of the attribution: the outcome, whether it had been written before, and what learners made of it.

    ``karma`` is empty where the outcome had been written before and its event has left the database.

    Histories of 0.1 have no ``learning``: their learners ran afterwards, the named ``learners`` in an activity of their
    own, in the same workflow task if ``learn_at_once``.
    """

    outcome: PositionOutcome
    already_attributed: bool
    karma: list[KarmaStep] = []
    learning: LearnReport | None = None
    noted: list[NotedField] = Field(default=[], description="What was not taken from the levers that it names.")
    learners: list[str] = []
    learn_at_once: bool = False


class CloseReport(BaseModel):
    """Result of a position's workflow. ``not_learned``: why a learner failed, by its name; a catch-up tries again."""

    outcome: PositionOutcome
    already_attributed: bool
    karma: list[KarmaStep]
    learned: list[str] = []
    not_learned: dict[str, str] = {}
    noted: list[NotedField] = Field(default=[], description="Optional fields that were left out of the message.")
    sentence: str


class RejectedClose(BaseModel):
    """A close that was refused; ``index`` is its place in what was sent, ``position_id`` null if it cannot be read."""

    index: int
    position_id: str | None = None
    reason: str


class ClosesReport(BaseModel):
    """What became of closes that were sent together."""

    closed: list[CloseReport] = []
    rejected: list[RejectedClose] = []


class OutcomesSummary(BaseModel):
    """Outcomes of a book: counts, hit rate with its 95 % interval, money, R and hours."""

    book: str
    count: int
    wins: int
    realized_pnl: Plain
    currency: str | None = Field(description="Of the money; null where no close has stated one.")
    rr_count: int = Field(description="How many of them have an R-multiple.")
    avg_rr: float | None
    avg_rr_se: float | None = Field(description="Standard error of the mean R.")
    avg_time_held_hours: float | None
    first_closed_at: datetime | None
    last_closed_at: datetime | None
    with_domain_scores: int
    hit_rate: float | None
    hit_rate_low: float | None
    hit_rate_high: float | None


class ProducerTrust(BaseModel):
    """Karma of a producer in a book, and the trades that it signalled."""

    book: str
    producer_id: str
    karma: float
    wins: int
    losses: int
    trades: int
    updated_at: datetime


class LearnRequest(BaseModel):
    """Tell these learners of an attributed position (workflows of 0.1)."""

    position: PositionKey
    learners: list[str]

    @field_serializer("position")
    def _position_as_object(self, position: PositionKey) -> dict[str, str]:
        return position._asdict()


class CatchUpRequest(BaseModel):
    """Look for closed positions without an attribution; at most ``limit`` are started in one run."""

    limit: Annotated[int, Field(ge=1, le=100_000)] = 5_000


class CatchUpReport(BaseModel):
    """What a catch-up found: workflows started, rows that no position can be read from.

    ``unattributable``: all of these that there are; ``newly_unattributable`` those that this run found. ``imports``:
    those that were started because the command that staged them had died.
    ``completed``: closes whose conviction had come after them. ``together``: whether there were so many that one
    workflow attributes them instead of one each.
    """

    started: int = 0
    running_already: int = 0
    unattributable: int = 0
    newly_unattributable: int = 0
    imports: int = 0
    completed: int = 0
    together: bool = False


class ReceivedRequest(BaseModel):
    """Attribute the closes that came in by the HTTP door; ``attributed`` and ``refused`` by the runs before."""

    attributed: Annotated[int, Field(ge=0)] = 0
    refused: Annotated[int, Field(ge=0)] = 0


class ReceivedReport(BaseModel):
    """How many received closes were attributed, and how many cannot be as they stand."""

    attributed: int = 0
    refused: int = 0


class KarmaRebuildRequest(BaseModel):
    """Recompute karma from the attributions: of one book, or of all."""

    book: BookId | None = None


class KarmaRebuildReport(BaseModel):
    """Books rebuilt, with the number of producers in each; and why others were not.

    The first 1,000 books are listed, ``unlisted`` counts the others.
    """

    producers: dict[str, int]
    unlisted: int = 0
    failed: dict[str, str] = {}
    policy_hash: str | None = Field(default=None, description="The policy of the worker that rebuilt it.")
    karma: dict[str, float] | None = Field(default=None, description="The numbers of that policy for karma.")


class Book(SQLModel, table=True):
    """A strategy's book. A decision on its weights locks its row. One that is archived takes in nothing.

    The preset is null until a person chooses one, or the first cycle settles on the default.
    """

    __tablename__ = "books"

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    preset: str | None = Col(default=None, sa_column=Column(Text))
    preset_weights: dict[str, float] | None = Col(default=None, sa_column=Column(JSONB))
    cadence: str = Col(sa_column=Column(Text, nullable=False, server_default=text("'weekly'")))
    currency: str | None = Col(default=None, sa_column=Column(Text))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    archived_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    archived_by: str | None = Col(default=None, sa_column=Column(Text))


# SQL of what a trade and its repeats share, as 64 bits: symbol, direction, size, PnL, time held ({0}: a table alias and
# its dot, or nothing). Null where one of them is. hash_numeric_extended knows 1.0 and 1.00 as one number.
SAME_RESULT = (
    "hash_numeric_extended({0}size, hash_numeric_extended({0}realized_pnl, "
    "hash_numeric_extended(EXTRACT(epoch FROM {0}closed_at - {0}opened_at), "
    "hashtextextended({0}symbol, hashtextextended({0}direction, 0)))))"
)


class Position(SQLModel, table=True):
    """A position as the engine reported it. Engines may also insert rows themselves; a catch-up attributes them."""

    __tablename__ = "positions"
    __table_args__ = (
        # The catch-up every five minutes, and the gauge of the oldest unattributed close, read only this index.
        Index(
            "positions_unattributed",
            "closed_at",
            "book_id",
            "position_id",
            postgresql_where=text("closed_at IS NOT NULL AND NOT attributed"),
        ),
        # Of attributed ones alone: their times are finite, whatever an engine may have written into others.
        Index(
            "positions_same_result",
            "book_id",
            text(SAME_RESULT.format("")),
            "entry_price",  # of a grid there are few results and many prices
            "exit_price",
            postgresql_where=text("attributed"),
        ),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    symbol: str = Col(sa_column=Column(Text, nullable=False))
    direction: str = Col(sa_column=Column(Text, nullable=False))
    opened_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    closed_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    entry_price: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    exit_price: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    size: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    realized_pnl: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    currency: str | None = Col(default=None, sa_column=Column(Text))
    risk: Decimal | None = Col(default=None, sa_column=Column(Numeric))
    max_drawdown_pct: float | None = Col(default=None, sa_column=Column(Double))
    max_favorable_pct: float | None = Col(default=None, sa_column=Column(Double))
    regime_at_entry: str | None = Col(default=None, sa_column=Column(Text))
    exit_reason: str | None = Col(default=None, sa_column=Column(Text))
    conviction_id: str | None = Col(default=None, sa_column=Column(Text))
    conviction: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    signals: list[Any] = Col(sa_column=Column(JSONB, nullable=False, server_default=text("'[]'")))
    entry_context: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB))
    attributed: bool = Col(sa_column_kwargs={"server_default": text("false")})
    recorded_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class Attribution(SQLModel, table=True):
    """The outcome of a closed position, matched with what was believed when it was opened.

    Written once; what was believed is completed once, if the conviction comes after the close. ``cycle_id``: of the
    conviction, where the close did not bring its scores.
    """

    __tablename__ = "attributions"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        ForeignKeyConstraint(["book_id", "position_id"], ["positions.book_id", "positions.position_id"]),
        Index("attributions_order", "book_id", "closed_at", "position_id"),
        # Research reads live closes only: imported ones are left out of the index, and cost nothing in it.
        # Its condition is store.attributions.IS_LIVE.
        Index(
            "attributions_live",
            "book_id",
            "attributed_at",
            postgresql_where=text("attributed_by LIKE '________-____-____-____-____________'"),
        ),
        # A conviction that comes finds the closes that wait for it.
        Index(
            "attributions_await_conviction",
            "book_id",
            "conviction_id",
            postgresql_where=text("conviction_status = 'unknown'"),
        ),
        Index(
            "attributions_await_scores",
            "book_id",
            "cycle_id",
            "symbol",
            postgresql_where=text("conviction_status = 'unknown'"),
        ),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    symbol: str = Col(sa_column=Column(Text, nullable=False))
    direction: str = Col(sa_column=Column(Text, nullable=False))
    opened_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    closed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    realized_pnl: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    rr: float | None = Col(default=None, sa_column=Column(Double))
    time_held_hours: float = Col(sa_column=Column(Double, nullable=False))
    max_drawdown_pct: float | None = Col(default=None, sa_column=Column(Double))
    max_favorable_pct: float | None = Col(default=None, sa_column=Column(Double))
    direction_correct: bool
    regime_at_entry: str | None = Col(default=None, sa_column=Column(Text))
    conviction_id: str | None = Col(default=None, sa_column=Column(Text))
    conviction_status: str = Col(sa_column=Column(Text, nullable=False))
    domain_scores_at_entry: dict[str, float] | None = Col(default=None, sa_column=Column(JSONB))
    producers: list[str] = Col(sa_column=Column(ARRAY(Text), nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    attributed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    attributed_by: str = Col(sa_column=Column(Text, nullable=False))
    cycle_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    completed_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class ProducerKarma(SQLModel, table=True):
    """Trust in a producer: an EMA of the outcomes of the trades that it signalled, with the counts beside it."""

    __tablename__ = "producer_karma"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    producer_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    karma: float = Col(sa_column=Column(Double, nullable=False))
    wins: int = Col(sa_column=Column(BigInteger, nullable=False))
    losses: int = Col(sa_column=Column(BigInteger, nullable=False))
    trades: int = Col(sa_column=Column(BigInteger, nullable=False))
    updated_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
