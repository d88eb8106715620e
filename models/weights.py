"""Governed weights: presets, cycles, proposals, decisions."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.approvals import MOST_EVENTS, ApprovalKey, Continuation, HistoryEvents, Said
from closeloop.models.values import BookId, Finite, Identifier, Utc

Weights = dict[str, float]
WEIGHTS = "weights"  # the kind of what waits for an operator here, and the lifecycle's name


class Cadence(StrEnum):
    """How often a book's weights are looked at."""

    weekly = "weekly"
    monthly = "monthly"

    def period(self, as_of: datetime) -> str:
        """The period that an instant lies in: its name is the cycle's."""
        if self is Cadence.monthly:
            return f"{as_of:%Y-%m}"
        year, week, _ = as_of.isocalendar()
        return f"{year}-W{week:02}"

    def begins(self, at: datetime) -> datetime:
        """When the period that an instant lies in began (UTC)."""
        day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day.replace(day=1) if self is Cadence.monthly else day - timedelta(days=day.weekday())

    def ends(self, at: datetime) -> datetime:
        """When the next period begins."""
        begins = self.begins(at)
        return self.begins(begins + timedelta(days=32 if self is Cadence.monthly else 7))


class Preset(BaseModel):
    """Weights that a book starts with and falls back to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Identifier
    description: str = ""
    weights: Annotated[dict[Identifier, Annotated[Finite, Field(gt=0, le=1)]], Field(min_length=1, max_length=64)]


class CycleState(StrEnum):
    """Where a cycle stands: ``proposed`` and ``applied`` are open, the others final."""

    proposed = "proposed"
    applied = "applied"
    no_adjustment = "no_adjustment"
    preset_restored = "preset_restored"
    rejected = "rejected"
    expired = "expired"
    reverted = "reverted"


class VersionCause(StrEnum):
    """Why weights came into force: a person approved them, the policy did (``itself``), a person went back to former
    ones or deleted the overlay file (``reverted``), or performance put the preset back (``restored``)."""

    approved = "approved"
    itself = "itself"
    reverted = "reverted"
    restored = "restored"


class WeightsVerdict(StrEnum):
    """What an operator may say to a cycle: decide on its proposal, and undo what was applied while it is watched."""

    approve = "approve"
    reject = "reject"
    revert = "revert"


class DomainEvidence(BaseModel):
    """Why a domain's weight should move: the correlation of its scores with the outcomes, over ``n`` trades."""

    n: int
    r: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    q: float | None


class GuardReading(BaseModel):
    """What a cycle under learned weights came to by the guarded rule (learning/guard.py)."""

    n: int = Field(description="Trades that were compared: their R is known and they have a domain score.")
    r_learned: float | None = Field(description="R a trade if sized by the learned weights' conviction.")
    r_preset: float | None = Field(description="R a trade if sized by the preset's.")
    difference: float = Field(description="r_learned - r_preset; 0 where one of them had no conviction at all.")
    x: float = Field(description="The difference, as a share of what counts in full; within -1 and 1.")
    evidence: float = Field(description="Mean of the bets against the learned weights, after the cycle.")
    threshold: float = Field(description="At this evidence the book goes back to its preset.")
    wealth: list[float] = Field(description="Each bet, as the next cycle goes on with it; all 0 after a revert.")
    cycles_at_worst: int = Field(description="Cycles as bad as can be after which the threshold would be reached.")


class OpenCycle(BaseModel):
    """Open a book's cycle: evaluate the last one and propose weights, for the workflow with this id."""

    book: str
    as_of: datetime
    deadline: timedelta | None
    workflow_id: str


class OpenedCycle(BaseModel):
    """What the evaluation and the proposal came to. ``workflow_id`` names the workflow that the cycle belongs to."""

    cycle_id: str
    workflow_id: str
    book: str
    as_of: datetime
    state: CycleState
    reason: str | None
    old: Weights
    new: Weights | None
    evidence: dict[str, DomainEvidence]
    deadline: datetime | None
    predecessor: str | None = None
    unknown_domains: list[str] = []
    sentence: str
    self_approved: bool = False
    self_approval: str | None = Field(default=None, description="The policy's own decision on record.")


class CycleContinuation(Continuation):
    """Of a cycle: as it was opened, its state now, whether the next one has begun, and the overlay file's turn."""

    cycle: OpenedCycle
    state: CycleState
    over: bool
    overlay_due: bool


class CycleRequest(BaseModel):
    """Run a book's cycle as of an instant (null: the workflow's start)."""

    book: BookId
    as_of: Utc | None = None
    deadline: Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(days=90))] | None = Field(
        default=None, description="How long a proposal waits; null: the policy's."
    )
    history_events: HistoryEvents = MOST_EVENTS
    continued: CycleContinuation | None = Field(default=None, description="Set by the workflow itself.")


class RecordRevert(Said):
    """Undo what a cycle applied; ``at``: when the word reached Temporal's server."""

    while_watched: bool = Field(default=True, description="It counts only until the next cycle begins.")


class CycleStanding(BaseModel):
    """Where a cycle stands on record, and whether the book's next cycle has begun."""

    state: CycleState
    next_has_begun: bool


class CycleKey(BaseModel):
    """Names a cycle."""

    cycle_id: str
    book: str

    @property
    def approval(self) -> ApprovalKey:
        """The same as something that waits for an operator."""
        return ApprovalKey(kind=WEIGHTS, book=self.book, id=self.cycle_id.removeprefix(f"{self.book}/"))


class CycleView(BaseModel):
    """A cycle, as the query and ``closeloop weights`` show it."""

    cycle_id: str
    workflow_id: str
    book: str
    as_of: datetime
    state: CycleState
    reason: str | None
    proposal_id: str | None
    old: Weights
    new: Weights | None
    evidence: dict[str, DomainEvidence]
    deadline: datetime | None
    decided_by: str | None = None
    decided_at: datetime | None = None
    note: str | None = None
    created_at: datetime
    policy_hash: str
    learned: bool = Field(description="Whether learned weights were in force, not the preset.")
    performance_n: int = Field(default=0, description="Positions that closed in the cycle before, opened under them.")
    performance_pnl: float | None = Field(default=None, description="Their mean pnl.")
    performance_r: float | None = Field(default=None, description="Their mean R.")
    streak: int = Field(default=0, description="In how many cycles in a row, up to this one, performance fell.")
    guard: GuardReading | None = Field(
        default=None, description="Of a cycle under learned weights with the guarded rule; null: another one."
    )
    approves_itself: bool = Field(
        default=False, description="Whether the proposal is by the supported domains alone, for the policy to approve."
    )


class CycleRecord(CycleView):
    """A cycle as it is recorded."""

    unknown_domains: list[str] = []
    version: int | None = Field(default=None, description="The weights that it put in force.")

    def in_its_time(self, at: datetime) -> datetime:
        """An instant on the cycle's own time line.

        A cycle of last month's ``as_of`` that is decided an hour after it was proposed is decided an hour after that
        ``as_of``. One that was begun in its own week or month, however late, is decided when it is.
        """
        period = self.cycle_id.rpartition("/")[2]
        if period in {cadence.period(self.created_at) for cadence in Cadence}:
            return at
        return self.as_of + (at - self.created_at)

    @property
    def view(self) -> CycleView:
        """The part of the record that commands and queries show."""
        return CycleView.model_validate(self.model_dump(include=set(CycleView.model_fields)))


class ActiveWeights(BaseModel):
    """The weights in force, as an engine reads them."""

    book: str
    weights: Weights
    version: int
    source: str
    since: datetime | None
    policy_hash: str


class VersionView(BaseModel):
    """Weights that were in force, why, and who decided that."""

    version: int
    source: str
    cause: VersionCause
    since: datetime
    reason: str
    cycle_id: str | None
    weights: Weights
    policy_hash: str
    created_at: datetime
    operator: str | None
    note: str | None


class WeightsHistory(BaseModel):
    """Every version of a book's weights and every cycle, the oldest first."""

    book: str
    versions: list[VersionView]
    cycles: list[CycleView]


class SimulatedRule(BaseModel):
    """What a rule of going back to the preset would have come to; ``preset``: had nothing been learned."""

    rule: Literal["seed", "guarded", "none", "preset"]
    reverts: list[datetime] = Field(description="Cycles at which the book would have gone back to its preset.")
    learned_cycles: int = Field(description="Cycles under learned weights.")
    learned_trades: int = Field(description="Trades of ``n`` that were opened under learned weights.")
    mean: float | None = Field(description="What a trade made, sized by conviction, in the simulation's unit.")
    standard_error: float | None = Field(description="Of the mean, trades of one cycle taken together.")
    against_none: float | None = Field(description="Mean difference to the rule ``none``, trade by trade.")
    against_none_standard_error: float | None
    weights: Weights = Field(description="In force at the end.")


class WeightsSimulation(BaseModel):
    """The rules of going back to the preset, walked through a book's own history. Nothing of it happened."""

    book: str
    as_of: datetime
    cadence: Cadence
    policy_hash: str
    cycles: int
    first_cycle: datetime | None
    last_cycle: datetime | None
    positions: int = Field(description="Closed by ``as_of``.")
    n: int = Field(
        description="Trades that count: with a score of one of the book's domains, and R where that is known."
    )
    unit: str = Field(description="R, or the book's money where no trade has R.")
    nothing: str | None = Field(description="Why there is nothing to compare; null where there is.")
    rules: list[SimulatedRule]


class OverlayReport(BaseModel):
    """What a look at the overlay files found."""

    repaired: list[str] = []
    deleted: list[CycleKey] = []
    failed: dict[str, str] = Field(default={}, description="Why a book's file could not be looked at or written.")


class CurrentCyclesRequest(BaseModel):
    """Ask for the cycle that each book is in: of the first ``limit`` such books by name, after the book ``after``.

    ``as_of``: when the run that asks was due. ``by_hand``: somebody started it.
    """

    as_of: datetime
    by_hand: bool = False
    after: str | None = None
    limit: int | None = None


class CurrentCycle(BaseModel):
    """A book and its cycle that is due, as of an instant (null in histories of 0.1: that of the run)."""

    book: str
    cycle_id: str
    as_of: datetime | None = None


class DispatchReport(BaseModel):
    """Cycles that a dispatch started."""

    started: list[str] = []


class WeightVersion(SQLModel, table=True):
    """Every set of weights that was ever in force. The highest version of a book is the active one."""

    __tablename__ = "weight_versions"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    version: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    weights: Weights = Col(sa_column=Column(JSONB, nullable=False))
    source: str = Col(sa_column=Column(Text, nullable=False))
    cause: str = Col(sa_column=Column(Text, nullable=False))
    since: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    cycle_id: str | None = Col(default=None, sa_column=Column(Text))
    reason: str = Col(sa_column=Column(Text, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    overlay: str = Col(sa_column=Column(Text, nullable=False, server_default=text("'due'")))
    overlay_folder: str | None = Col(default=None, sa_column=Column(Text))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class LearningWeight(SQLModel, table=True):
    """Each change of a domain's weight: old, new, why."""

    __tablename__ = "learning_weights"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "version"], ["weight_versions.book_id", "weight_versions.version"]),
        Index("learning_weights_version", "book_id", "version", "domain", unique=True),
    )

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    version: int = Col(sa_column=Column(Integer, nullable=False))
    domain: str = Col(sa_column=Column(Text, nullable=False))
    old_weight: float = Col(sa_column=Column(Double, nullable=False))
    new_weight: float = Col(sa_column=Column(Double, nullable=False))
    delta: float = Col(sa_column=Column(Double, nullable=False))
    reason: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class WeightCycle(SQLModel, table=True):
    """A cycle with its evaluation, its proposal or reason for none, and what was decided."""

    __tablename__ = "weight_cycles"
    __table_args__ = (
        ForeignKeyConstraint(["book_id"], ["books.book_id"]),
        Index("weight_cycles_as_of", "book_id", "as_of", unique=True),
        # At most one cycle of a book is open to decisions.
        Index("weight_cycles_proposed", "book_id", unique=True, postgresql_where=text("state = 'proposed'")),
    )

    cycle_id: str = Col(sa_column=Column(Text, primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    workflow_id: str = Col(sa_column=Column(Text, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    state: str = Col(sa_column=Column(Text, nullable=False))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    old: Weights = Col(sa_column=Column(JSONB, nullable=False))
    new: Weights | None = Col(default=None, sa_column=Column(JSONB))
    evidence: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    learned: bool = Col(sa_column=Column(Boolean, nullable=False))
    performance_n: int = Col(sa_column=Column(Integer, nullable=False))
    performance_pnl: float | None = Col(default=None, sa_column=Column(Double))
    performance_r: float | None = Col(default=None, sa_column=Column(Double))
    streak: int = Col(sa_column=Column(Integer, nullable=False))
    guard: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    approves_itself: bool = Col(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    unknown_domains: list[str] = Col(sa_column=Column(JSONB, nullable=False, server_default=text("'[]'")))
    deadline: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    version: int | None = Col(default=None, sa_column=Column(Integer))
    decided_by: str | None = Col(default=None, sa_column=Column(Text))
    decided_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    note: str | None = Col(default=None, sa_column=Column(Text))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    created_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
