"""The append-only record of what happened."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class EventType(StrEnum):
    """Names of events; they are an interface and never change."""

    learning_outcome = "learning.outcome.v1"
    attribution_outcome = "attribution.outcome.v1"
    attribution_completed = "attribution.completed.v1"
    position_unattributable = "position.unattributable.v1"
    weights_proposed = "learning.weights.proposed.v1"
    weights_unchanged = "learning.weights.unchanged.v1"
    weights_reminder = "learning.weights.reminder.v1"
    weights_applied = "learning.weights.applied.v1"
    weights_rejected = "learning.weights.rejected.v1"
    weights_expired = "learning.weights.expired.v1"
    weights_reverted = "learning.weights.reverted.v1"
    weights_word_refused = "learning.weights.word_refused.v1"
    forecast = "forecast.v1"
    forecast_outcome = "forecast.outcome.v1"
    forecast_unresolvable = "forecast.unresolvable.v1"
    forecast_corrected = "forecast.outcome_corrected.v1"
    prices_replaced = "prices.replaced.v1"
    prices_deleted = "prices.deleted.v1"
    recalibration = "producer.recalibration.v1"
    meta_shadowed = "meta.shadowed.v1"
    drivers_reverted = "market.drivers.reverted.v1"
    book_archived = "learning.book.archived.v1"
    book_restored = "learning.book.restored.v1"
    book_failed = "learning.book_failed.v1"
    scope_dimension_unknown = "learning.scope.unknown_dimension.v1"
    action_unreadable = "learning.action.unreadable.v1"
    lessons_built = "learning.lessons.built.v1"
    overrides_materialized = "learning.overrides.materialized.v1"
    approval_approved = "learning.approval.approved.v1"
    approval_rejected = "learning.approval.rejected.v1"
    approval_expired = "learning.approval.expired.v1"
    approval_reminder = "learning.approval.reminder.v1"
    token_created = "token.created.v1"  # noqa: S105
    token_revoked = "token.revoked.v1"  # noqa: S105
    approval_word_refused = "learning.approval.word_refused.v1"
    parameter_mode = "learning.parameters.mode.v1"
    skill_promoted = "learning.skill.promoted.v1"
    skill_archived = "learning.skill.archived.v1"
    skill_skipped = "learning.skill.skipped.v1"
    research_over_budget = "learning.research.over_budget.v1"
    research_given_up = "learning.research.given_up.v1"


LEAVING_TYPES = (
    EventType.learning_outcome,
    EventType.attribution_outcome,
    EventType.forecast,
    EventType.forecast_outcome,
)
"""Events that may leave the database: there is one for each close or forecast, and a row that stays says the same.

All but the karma steps of ``attribution.outcome.v1``. The trigger ``events_leave`` has the same list.
"""


class EventView(BaseModel):
    """An event as it is shown. ``dedupe_key``: its type and what it is about; there is no second event with it."""

    id: int
    type: str
    ts: datetime
    source: str
    payload: dict[str, Any]
    dedupe_key: str


class Event(SQLModel, table=True):
    """Something that happened, once: ``dedupe_key`` refuses the second writing."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_type_id", "type", "id"),
        Index("events_book_id", text("(payload ->> 'book')"), "id"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    type: str = Field(sa_column=Column(Text, nullable=False))
    ts: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    source: str = Field(sa_column=Column(Text, nullable=False))
    payload: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    dedupe_key: str = Field(sa_column=Column(Text, nullable=False, unique=True))
