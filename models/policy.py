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

    mode_low_below: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="A_value and E_value below this are the mode low (in [0, 1]). 0.4: the seed calls 0.35 low.",
    )
    mode_high_from: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="A_value and E_value from this on are the mode high (in [0, 1]). 0.7: the seed calls 0.72 high.",
    )

    mining_max_conditions: int | None = Field(
        default=3,
        ge=1,
        description="Most conditions of a lesson (count); null: no limit. 3: a person can still say it in a sentence, "
        "and 28 dimensions stay minable.",
    )
    mining_min_trades: int = Field(
        default=33, ge=2, description="Distinct trades that a lesson needs inside and outside (count)."
    )
    mining_min_cell_trades: int = Field(
        default=5,
        ge=2,
        description="Trades inside and outside below which a cell of accepted lessons is not compared (count): fewer "
        "say nothing about their variance.",
    )
    mining_min_days: int = Field(
        default=10,
        ge=2,
        description="UTC entry days with selected trades below which a lesson cannot be told from the luck of a day "
        "(count).",
    )
    mining_max_dimensions: int = Field(
        default=40,
        ge=1,
        description="Dimensions that a group is mined over (count). 40: the 28 known ones and a dozen of an engine's "
        "own; the work grows with their third power.",
    )
    mining_growth: float = Field(
        default=0.10,
        ge=0.0,
        description="New trades after which a group is mined again (share of the trades it was last mined with). "
        "Repeated looks find noise sooner or later.",
    )
    lesson_max_q: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Highest Benjamini-Hochberg q of an accepted lesson (probability)."
    )
    lesson_min_effect: float = Field(
        default=0.05, ge=0.0, description="Smallest effect of an accepted lesson, either way (R)."
    )
    lesson_baseline_rr: float = Field(
        default=0.0, allow_inf_nan=False, description="What a lesson's raw edge is measured from (R). 0: no trade."
    )
    decay_shortest_hours: float = Field(default=24.0, gt=0.0, description="Shortest half-life that is fitted (hours).")
    decay_longest_hours: float = Field(
        default=180.0 * 24, gt=0.0, description="Longest half-life that is fitted (hours). 180 days: slower is none."
    )
    decay_min_evidence: float = Field(
        default=2.71,
        ge=0.0,
        description="n ln(SSE of a constant / SSE of the decay) above which a half-life is reported (dimensionless). "
        "2.71: chi-square, one degree of freedom, 10 %.",
    )
    edge_min_samples: int = Field(
        default=10,
        ge=3,
        description="Trades of a regime below which its weights of the edge factors stay equal (count).",
    )

    override_min_half_life_hours: float = Field(
        default=72.0, ge=0.0, description="Half-life below which a lesson is gone too soon to be acted on (hours)."
    )
    override_shrink_trades: float = Field(
        default=50.0,
        ge=0.0,
        description="Trades at which a lesson is believed by half: n / (n + this) (count). Also of timeframes' "
        "coefficients and regimes' weights.",
    )
    override_size_slope: float = Field(
        default=0.2, ge=0.0, description="Size per R of shrunk effect (share of size). 0.2: the seed's example."
    )
    override_min_size: float = Field(default=0.5, gt=0.0, le=1.0, description="Smallest size multiplier (factor).")
    override_max_size: float = Field(default=1.5, ge=1.0, description="Largest size multiplier (factor).")
    override_threshold_slope: float = Field(
        default=0.024,
        ge=0.0,
        description="How far ts_threshold of entries and adds falls per R of shrunk effect (score). 0.024: the seed's "
        "example.",
    )
    override_threshold_limit: float = Field(
        default=0.05, ge=0.0, description="Most that ts_threshold is moved, either way (score)."
    )
    override_approval_limit: float = Field(
        default=0.25,
        ge=0.0,
        description="Change of size above which an override waits for an operator (share of size, either way).",
    )
    override_half_lives: float = Field(
        default=2.0, gt=0.0, description="Half-lives after its lesson's newest trade at which an override ends (count)."
    )
    override_days_without_decay: float = Field(
        default=30.0,
        gt=0.0,
        le=3650.0,
        description="Days after its lesson's newest trade at which an override ends where no decay was seen.",
    )
    override_specificity_power: float = Field(
        default=1.5,
        ge=0.0,
        description="Power of (1 + conditions) in the weight with which an override speaks (dimensionless): the more "
        "exact one is heard more.",
    )

    coefficients_method: Literal["decayed_mean", "seed"] = Field(
        default="decayed_mean",
        description="How timeframes' coefficients are learned: decayed means in any order, or the seed's own update, "
        "which remembers about three trades and divides by a mean that may be near 0.",
    )
    coefficients_short_days: float = Field(
        default=14.0, gt=0.0, description="Time constant of the short memory (days), the one that weighs timeframes."
    )
    coefficients_long_days: float = Field(default=90.0, gt=0.0, description="Time constant of the long memory (days).")
    coefficients_min_weight: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Smallest weight of a timeframe (factor)."
    )
    coefficients_max_weight: float = Field(default=2.0, ge=1.0, description="Largest weight of a timeframe (factor).")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_domain_weight > self.max_domain_weight:
            raise ValueError("min_domain_weight: must not be above max_domain_weight; lower it")
        if self.cold_start_days > self.warm_days:
            raise ValueError("cold_start_days: must not be above warm_days; lower it")
        if self.mode_low_below > self.mode_high_from:
            raise ValueError("mode_low_below: must not be above mode_high_from; lower it")
        if self.decay_shortest_hours >= self.decay_longest_hours:
            raise ValueError("decay_shortest_hours: must be below decay_longest_hours; lower it")
        return self

    @cached_property
    def policy_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the policy as canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
