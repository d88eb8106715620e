"""Every number that shapes learning, with its unit, default and reason, in one place."""

import hashlib
from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LearningPolicy(BaseModel):
    """What shapes learning. Overridden by a YAML file (``CLOSELOOP_POLICY``); unknown or impossible values are refused.

    Every decision stores :attr:`policy_hash`, so that it can be read beside the numbers that it was made with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    karma_alpha: float = Field(
        default=0.05,
        gt=0.0,
        lt=1.0,
        description="Weight of the newest outcome in a producer's karma (dimensionless). 0.05: about the last 20 "
        "trades count for two thirds.",
    )
    karma_start: float = Field(
        default=1.0,
        ge=-1.0,
        le=1.0,
        description="Karma of a producer before its first trade (dimensionless). 1: trusted until shown otherwise.",
    )

    default_preset: str = Field(
        default="balanced", description="Preset of a book that nobody set up (a file's name in presets/)."
    )
    adjustment_window_days: int = Field(
        default=30, ge=1, le=3650, description="Days of closed positions that a weight cycle looks at."
    )
    min_observations: int = Field(
        default=20, ge=1, description="Closed positions in the window below which no adjustment is proposed (count)."
    )
    min_pairs: int = Field(
        default=10, ge=4, description="Pairs of score and outcome below which a domain's correlation is 0 (count)."
    )
    max_weight_delta: float = Field(
        default=0.02, gt=0.0, le=1.0, description="Most that a weight may move in one cycle (share of 1)."
    )
    min_domain_weight: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="Floor of every weight (share of 1): no domain is ever silenced."
    )
    max_domain_weight: float = Field(
        default=0.40, gt=0.0, le=1.0, description="Ceiling of every weight (share of 1): no domain decides alone."
    )
    cold_start_days: int = Field(
        default=30, ge=0, description="Age of a book (days since its first close) before which it is only observed."
    )
    warm_days: int = Field(default=90, ge=0, description="Age of a book (days) before which the delta is halved.")
    domain_score_sign: Literal["market", "trade"] = Field(
        default="market",
        description="What a positive score means: bullish for the market (then a bearish score that opened a winning "
        "short was right), or good for this trade.",
    )
    min_cycle_positions: int = Field(
        default=5, ge=1, description="Positions that a cycle needs for its performance to be compared (count)."
    )
    degrading_cycles: int = Field(
        default=3, ge=1, description="Falls of performance in a row at which a book goes back to its preset (count)."
    )
    approval_hours: float = Field(
        default=72.0, gt=0.0, le=24 * 90, description="How long a proposal waits for an operator (hours)."
    )
    self_approve_max_q: float | None = Field(
        default=None,
        gt=0.0,
        le=0.25,
        description="Approve a proposal without an operator if every changed domain's q-value is at most this. "
        "Null: never.",
    )

    forecast_grace_minutes: int = Field(
        default=5, ge=0, le=24 * 60, description="Minutes after its horizon at which a forecast is due."
    )
    price_tolerance_minutes: int = Field(
        default=30,
        ge=1,
        le=30,
        description="How long before an instant the candle that prices it may have ended (min).",
    )
    flat_band_pct: float = Field(
        default=0.25, ge=0.0, le=100.0, description="A return within this band, inclusive, is flat (percent)."
    )
    unresolvable_days: int = Field(
        default=7, ge=1, le=365, description="Days after its target at which a forecast without a price is given up."
    )
    performance_window_days: int = Field(
        default=90, ge=1, le=3650, description="Days of outcomes, by target time, that a producer's scores look at."
    )
    performance_min_outcomes: int = Field(
        default=5, ge=1, description="Outcomes below which a producer has counts but no rates (count)."
    )
    agreement_block_hours: int = Field(
        default=2, ge=1, le=24, description="Two producers spoke together within the same block of this length (hours)."
    )
    recalibration_min_outcomes: int = Field(
        default=100, ge=20, description="Outcomes below which no recalibration is tried (count)."
    )
    recalibration_growth: float = Field(
        default=0.10,
        gt=0.0,
        le=10.0,
        description="New outcomes after which a recalibration is tried again (share of the last count): looking after "
        "each outcome would adopt noise sooner or later.",
    )
    meta_min_outcomes: int = Field(
        default=500, ge=1, description="Outcomes of a book before which the meta-producer always abstains (count)."
    )
    meta_min_episodes: int = Field(
        default=10, ge=1, description="Earlier episodes of the same state below which it abstains (count)."
    )
    meta_min_share: float = Field(
        default=0.60, ge=0.0, le=1.0, description="Least share of episodes that went the same way (share of 1)."
    )
    meta_state_hours: float = Field(
        default=2.0,
        gt=0.0,
        le=24.0,
        description="Age to which a producer's last forecast is part of the state (hours).",
    )
    meta_approval_hours: float = Field(
        default=72.0,
        gt=0.0,
        le=24 * 90,
        description="How long a proposal to leave shadow waits for an operator (hours).",
    )
    health_min_observations: int = Field(
        default=20, ge=1, description="Heartbeats below which a producer's health has no score (count)."
    )
    health_stale_minutes: int = Field(
        default=60, ge=1, le=60 * 24 * 30, description="Minutes without a success after which a producer is stale."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_domain_weight > self.max_domain_weight:
            raise ValueError("min_domain_weight: must not be above max_domain_weight; lower it")
        if self.cold_start_days > self.warm_days:
            raise ValueError("cold_start_days: must not be above warm_days; lower it")
        return self

    @cached_property
    def policy_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the policy as canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
