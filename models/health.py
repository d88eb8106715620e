"""How the service is: its flows of data, its answers, what it learned lately, its database."""

from datetime import datetime

from pydantic import BaseModel, Field


class FlowHealth(BaseModel):
    """One flow of messages. Latencies are from a request's start to its commit; null where there was none."""

    collections_today: int = Field(description="Messages accepted since 00:00 UTC.")
    avg_latency_ms: float | None = Field(description="Of the last 24 hours.")
    p50_latency_ms: float | None = Field(description="At most this: the upper bound of the class that holds it.")
    p99_latency_ms: float | None
    success_rate_24h: float | None = Field(description="(accepted + duplicate) / messages, in [0, 1].")


class DeliveryHealth(BaseModel):
    """What engines read. ``cache_hit_rate``: (304 + from memory) / all, in [0, 1]; null without reads."""

    requests_today: int
    avg_response_time_ms: float | None
    cache_hit_rate: float | None


class EffectivenessHealth(BaseModel):
    """What was learned. The hit rate of 30 days minus that of the 30 before, with its 95 % interval; null under 20."""

    patterns_discovered_this_week: int = Field(description="Lessons that were new this week, of at most q 0.05.")
    parameter_adjustments_this_week: int = Field(description="Versions of weights that came into force this week.")
    accuracy_improvement_this_month: float | None
    accuracy_improvement_low: float | None
    accuracy_improvement_high: float | None


class Interval(BaseModel):
    """A share in [0, 1] with its 95 % interval (Wilson), of ``n``; null where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class ClientHealth(BaseModel):
    """An engine's client as it described itself last, in the header of a request to this process."""

    name: str
    state: str
    opens: int
    spooled: int
    refused: int
    seen_at: datetime


class DatabaseHealth(BaseModel):
    """The database. ``oldest_unattributed_seconds``: age of the oldest close without an attribution; null if none."""

    ping_ms: float
    connections_in_use: int | None = Field(description="Of this process's pool.")
    size_bytes: int
    oldest_inbox_row: datetime | None
    oldest_unattributed_seconds: float | None


class LearningHealth(BaseModel):
    """Health of the whole learning service (seeds 001 and 003)."""

    as_of: datetime
    discovery_data_flow: FlowHealth
    thesis_data_flow: FlowHealth
    trade_data_flow: FlowHealth
    intelligence_delivery: DeliveryHealth
    learning_effectiveness: EffectivenessHealth
    data_collection_rate: float = Field(description="Messages a minute, over the last hour.")
    pattern_analysis_latency: float | None = Field(
        description="Seconds that the daily cycle last took for its patterns; null: no daily cycle has run."
    )
    prediction_accuracy: Interval = Field(description="Share of forecasts of the last 30 days that came true.")
    circuit_breaker_status: list[ClientHealth]
    database_health: DatabaseHealth
