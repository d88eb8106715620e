"""Every number that shapes learning, with its unit, default and reason, in one place: a section for each rule.

A section is what one rule reads, and has a hash of its own: what was decided is decided again only where a number
changed that it depends on, whatever a release adds elsewhere.
"""

import hashlib
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from closeloop.models.market_policy import LeversPolicy as LeversPolicy
from closeloop.models.market_policy import MarketPolicy as MarketPolicy
from closeloop.models.market_policy import WorthPolicy as WorthPolicy
from closeloop.models.policy_section import PolicySection as PolicySection
from closeloop.models.policy_section import hash_of as hash_of
from closeloop.models.retention import Leaving


class KarmaPolicy(PolicySection):
    """Trust in producers by the trades that they signalled."""

    alpha: float = Field(
        default=0.05,
        gt=0.0,
        lt=1.0,
        description="Weight of the newest outcome in a producer's karma (dimensionless). 0.05: about the last 20 "
        "trades count for two thirds.",
    )
    start: float = Field(
        default=1.0,
        ge=-1.0,
        le=1.0,
        description="Karma of a producer before its first trade (dimensionless). 1: trusted until shown otherwise.",
    )


class WeightsPolicy(PolicySection):
    """Weights of domains: what a cycle looks at, how far it may move, when it gives up."""

    default_preset: str = Field(
        default="balanced", description="Preset of a book that nobody set up (a file's name in presets/)."
    )
    window_days: int = Field(
        default=30, ge=1, le=3650, description="Days of closed positions that a weight cycle looks at."
    )
    min_observations: int = Field(
        default=20, ge=1, description="Closed positions in the window below which no adjustment is proposed (count)."
    )
    min_pairs: int = Field(
        default=10, ge=4, description="Pairs of score and outcome below which a domain's correlation is 0 (count)."
    )
    max_delta: float = Field(
        default=0.02, gt=0.0, le=1.0, description="Most that a weight may move in one cycle (share of 1)."
    )
    floor: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="Floor of every weight (share of 1): no domain is ever silenced."
    )
    ceiling: float = Field(
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
    self_approve_max_q: float | None = Field(
        default=None,
        gt=0.0,
        le=0.25,
        description="Propose by the domains alone whose q-value is at most this, and approve that without an operator. "
        "Null: never.",
    )
    revert: Literal["seed", "guarded"] = Field(
        default="seed",
        description="When a book goes back to its preset by itself: after falls of performance in a row (seed; noise "
        "shows them about three times in 100 cycles, whatever the truth), or on evidence that the preset would have "
        "done better (guarded).",
    )
    guard_threshold: float = Field(
        default=50.0,
        gt=1.0,
        le=1e6,
        description="Evidence against the learned weights at which the guarded rule goes back to the preset "
        "(dimensionless). 50: at most one false revert in 50 cycles, on the average.",
    )
    guard_full_r: float = Field(
        default=0.2, gt=0.0, description="Difference of learned weights and preset that counts in full (R a trade)."
    )
    guard_max_r: float = Field(
        default=3.0, gt=0.0, description="Up to which one trade counts for the guarded rule, either way (R)."
    )
    guard_bets: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(
        default=(0.2, 0.4, 0.8),
        min_length=1,
        max_length=10,
        description="What each bet against the learned weights stakes in a cycle (share of its wealth): small stakes "
        "find small differences, large ones find large differences soon.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.floor > self.ceiling:
            raise ValueError("floor: must not be above ceiling; lower it")
        if self.cold_start_days > self.warm_days:
            raise ValueError("cold_start_days: must not be above warm_days; lower it")
        return self


class ForecastsPolicy(PolicySection):
    """When a forecast is resolved, and what counts as right."""

    grace_minutes: int = Field(
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


class ProducersPolicy(PolicySection):
    """What producers are worth by their forecasts, and their health."""

    window_days: int = Field(
        default=90, ge=1, le=3650, description="Days of outcomes, by target time, that a producer's scores look at."
    )
    min_outcomes: int = Field(
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
    health_min_observations: int = Field(
        default=20, ge=1, description="Heartbeats below which a producer's health has no score (count)."
    )
    health_window_days: int = Field(
        default=7,
        ge=1,
        le=21,
        description="Days of heartbeats that a producer's health looks at: long enough for 20 of one that speaks a few "
        "times a day, short enough that years of successes do not hide a week of failures. Heartbeats are kept for 30.",
    )
    health_failing_share: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="Share of failures within the window above which, with 95 % confidence, a producer is failing.",
    )
    health_stale_minutes: int = Field(
        default=60, ge=1, le=60 * 24 * 30, description="Minutes without a success after which a producer is stale."
    )


class MetaPolicy(PolicySection):
    """When the meta-producer may say something."""

    min_outcomes: int = Field(
        default=500, ge=1, description="Outcomes of a book before which the meta-producer always abstains (count)."
    )
    min_episodes: int = Field(
        default=10, ge=1, description="Earlier episodes of the same state below which it abstains (count)."
    )
    min_share: float = Field(
        default=0.60, ge=0.0, le=1.0, description="Least share of episodes that went the same way (share of 1)."
    )
    state_hours: float = Field(
        default=2.0,
        gt=0.0,
        le=24.0,
        description="Age to which a producer's last forecast is part of the state (hours).",
    )


class ApprovalsPolicy(PolicySection):
    """How long something waits for an operator, and who may decide. No number learned depends on it."""

    hours: float = Field(
        default=72.0, gt=0.0, le=24 * 90, description="How long a proposal waits for an operator (hours)."
    )
    meta_hours: float = Field(
        default=72.0,
        gt=0.0,
        le=24 * 90,
        description="How long a proposal to leave shadow waits for an operator (hours).",
    )
    require_token: bool = Field(
        default=False,
        description="Whether decisions come only with an operator's token (true or false). False: whoever reaches "
        "Temporal may decide, under any name.",
    )
    four_eyes: bool = Field(
        default=False,
        description="Whether the token that proposed something cannot approve it, and approvals need a token "
        "(true or false).",
    )


class PatternsPolicy(PolicySection):
    """How the circumstances of an action become a scope."""

    mode_low_below: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="A_value and E_value below this are the mode low (in [0, 1]). 0.4: 0.35 is meant as low.",
    )
    mode_high_from: float = Field(
        default=0.7,
        ge=0.0,
        le=1.0,
        description="A_value and E_value from this on are the mode high (in [0, 1]). 0.7: 0.72 is meant as high.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode_low_below > self.mode_high_from:
            raise ValueError("mode_low_below: must not be above mode_high_from; lower it")
        return self


SameTrade = Literal["exact", "result", "never"]
"""When two trades of a book with different ids are one trade; see ``mining.same_trade``."""


class MiningPolicy(PolicySection):
    """Which circumstances become lessons."""

    max_conditions: int | None = Field(
        default=3,
        ge=1,
        description="Most conditions of a lesson (count); null: no limit. 3: a person can still say it in a sentence, "
        "and 28 dimensions stay minable.",
    )
    min_trades: int = Field(
        default=33, ge=2, description="Distinct trades that a lesson needs inside and outside (count)."
    )
    min_cell_trades: int = Field(
        default=5,
        ge=2,
        description="Trades inside and outside below which a cell of accepted lessons is not compared (count): fewer "
        "say nothing about their variance.",
    )
    min_days: int = Field(
        default=10,
        ge=2,
        description="UTC entry days with selected trades below which a lesson cannot be told from the luck of a day "
        "(count).",
    )
    luck_variance: float = Field(
        default=0.05,
        gt=0.0,
        description="Variance of the luck of a period or a symbol that the weights of their means presume (share of "
        "the variance of a trade). 0.05: more than about 20 trades say little more of one of them.",
    )
    quarter_weeks: int = Field(
        default=48,
        ge=0,
        description="Weeks that a group's trades must span for the luck of blocks of 12 weeks to be weighed (count). "
        "48: four blocks; fewer say nothing of their variance.",
    )
    min_symbol_freedom: float = Field(
        default=4.0,
        ge=0.0,
        description="Degrees of freedom of the luck of symbols below which a lesson that is confined to some of them "
        "cannot be told from it (count). 4: three symbols inside and three outside, five inside where very many are "
        "outside.",
    )
    max_symbol_share: float = Field(
        default=0.1,
        ge=0.0,
        description="Share of a difference that lies between symbols, not within them, from which a lesson is confined "
        "to them (share of the sum of squared weights of trades). Chance alone gives symbols / trades.",
    )
    max_dimensions: int = Field(
        default=40,
        ge=1,
        description="Dimensions that a group is mined over (count). 40: the 28 known ones and a dozen of an engine's "
        "own; the work grows with their third power.",
    )
    growth: float = Field(
        default=0.10,
        ge=0.0,
        description="New trades after which a group is mined again (share of the trades it was last mined with). "
        "Repeated looks find noise sooner or later.",
    )
    same_trade: SameTrade = Field(
        default="exact",
        description="When a trade is another one again under another id, so that both are mined as one: 'exact', same "
        "symbol, direction, size, PnL, time held, prices and scope; 'result', whatever prices and scope; 'never'. "
        "A bot of fixed size and fixed take-profits repeats results, seldom with the same prices and scope.",
    )
    max_q: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Highest Benjamini-Hochberg q of an accepted lesson (probability)."
    )
    min_effect: float = Field(
        default=0.05, ge=0.0, description="Smallest effect of an accepted lesson, either way (R)."
    )
    baseline_rr: float = Field(
        default=0.0, allow_inf_nan=False, description="What a lesson's raw edge is measured from (R). 0: no trade."
    )


class DecayPolicy(PolicySection):
    """How the half-life of a lesson is fitted, and which lessons fade too fast."""

    shortest_hours: float = Field(default=24.0, gt=0.0, description="Shortest half-life that is fitted (hours).")
    longest_hours: float = Field(
        default=180.0 * 24, gt=0.0, description="Longest half-life that is fitted (hours). 180 days: slower is none."
    )
    min_evidence: float = Field(
        default=2.71,
        ge=0.0,
        description="n ln(SSE of a constant / SSE of the decay) above which a half-life is reported (dimensionless). "
        "2.71: chi-square, one degree of freedom, 10 %.",
    )
    min_half_life_hours: float = Field(
        default=72.0, ge=0.0, description="Half-life below which a lesson is gone too soon to be acted on (hours)."
    )
    interval: float = Field(
        default=0.90,
        gt=0.0,
        lt=1.0,
        description="Level of the interval of what is left of a fading edge (probability); a lesson whose interval has "
        "0 in it is not acted on.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shortest_hours >= self.longest_hours:
            raise ValueError("shortest_hours: must be below longest_hours; lower it")
        return self


class EdgePolicy(PolicySection):
    """How the factors of a lesson's edge score are weighed by regime signature (learning/scope.py)."""

    shrink_trades: float = Field(
        default=50.0,
        ge=0.0,
        description="Trades of a regime signature at which its correlations are believed by half: n / (n + this) "
        "(count).",
    )
    min_samples: int = Field(
        default=10,
        ge=3,
        description="Trades of a regime signature below which its weights of the edge factors stay equal (count).",
    )


class OverridesPolicy(PolicySection):
    """What a lesson changes of size and thresholds, and for how long."""

    shrink_trades: float = Field(
        default=50.0,
        ge=0.0,
        description="Trades at which a lesson is believed by half: n / (n + this) (count).",
    )
    size_slope: float = Field(
        default=0.2,
        ge=0.0,
        description="Size per R of shrunk effect (share of size). 0.2: +1 R over 150 trades sizes 15 % up.",
    )
    min_size: float = Field(default=0.5, gt=0.0, le=1.0, description="Smallest size multiplier (factor).")
    max_size: float = Field(default=1.5, ge=1.0, description="Largest size multiplier (factor).")
    threshold_slope: float = Field(
        default=0.024,
        ge=0.0,
        description="How far ts_threshold of entries and adds falls per R of shrunk effect (score). 0.024: by 0.02 "
        "where size rises by 17 %.",
    )
    threshold_limit: float = Field(
        default=0.05, ge=0.0, description="Most that ts_threshold is moved, either way (score)."
    )
    approval_limit: float = Field(
        default=0.25,
        ge=0.0,
        description="Change of size above which an override waits for an operator (share of size, either way).",
    )
    half_lives: float = Field(
        default=2.0, gt=0.0, description="Half-lives after its lesson's newest trade at which an override ends (count)."
    )
    days_without_decay: float = Field(
        default=30.0,
        gt=0.0,
        le=3650.0,
        description="Days after its lesson's newest trade at which an override ends where no decay was seen, and at "
        "the latest.",
    )
    specificity_power: float = Field(
        default=1.5,
        ge=0.0,
        description="Power of (1 + conditions) in the weight with which an override speaks (dimensionless): the more "
        "exact one is heard more.",
    )


class CoefficientsPolicy(PolicySection):
    """How timeframes are weighed by their R."""

    shrink_trades: float = Field(
        default=50.0,
        ge=0.0,
        description="Trades of a timeframe at which its mean is believed by half: n / (n + this) (count).",
    )
    method: Literal["decayed_mean", "seed"] = Field(
        default="decayed_mean",
        description="How timeframes' coefficients are learned: decayed means in any order, or 'seed', the update that "
        "closeloop was first specified with: it remembers about three trades and divides by a mean that may be near 0.",
    )
    short_days: float = Field(
        default=14.0, gt=0.0, description="Time constant of the short memory (days), the one that weighs timeframes."
    )
    long_days: float = Field(default=90.0, gt=0.0, description="Time constant of the long memory (days).")
    min_weight: float = Field(default=0.5, ge=0.0, le=1.0, description="Smallest weight of a timeframe (factor).")
    max_weight: float = Field(default=2.0, ge=1.0, description="Largest weight of a timeframe (factor).")


class CorpusPolicy(PolicySection):
    """At which scores skills move."""

    promote_at: int = Field(
        default=3,
        ge=1,
        description="Score from which on a pending skill becomes active (points; an outcome of its pattern adds 1 or "
        "-1). 3: low on purpose, since what is active can still be archived.",
    )
    archive_at: int = Field(
        default=-3,
        le=-1,
        description="Score down to which an active skill is archived (points). -3: as far below 0 as promotion is "
        "above, so that one bad trade moves nothing.",
    )


class ResearchPolicy(PolicySection):
    """What research tells of trades, and how much of them a prompt holds. No number learned depends on it."""

    big_win_rr: float = Field(
        default=2.0, gt=0.0, description="Above this a trade is tagged as a big win (R). 2: twice what was risked."
    )
    max_data_bytes: int = Field(
        default=48_000,
        ge=1_000,
        description="Most data of a prompt (bytes of JSON). 48,000: a token is at least a byte, and prompts of 200,000 "
        "tokens on cost more.",
    )


# Names of 0.1, when the policy was flat, and which fields have their numbers now: a policy file of that time is still
# read. In their order of 0.1, on which the hash of that time depends.
FLAT_NAMES: dict[str, tuple[str, ...]] = {
    "karma_alpha": ("karma.alpha",),
    "karma_start": ("karma.start",),
    "default_preset": ("weights.default_preset",),
    "adjustment_window_days": ("weights.window_days",),
    "min_observations": ("weights.min_observations",),
    "min_pairs": ("weights.min_pairs",),
    "max_weight_delta": ("weights.max_delta",),
    "min_domain_weight": ("weights.floor",),
    "max_domain_weight": ("weights.ceiling",),
    "cold_start_days": ("weights.cold_start_days",),
    "warm_days": ("weights.warm_days",),
    "domain_score_sign": ("weights.domain_score_sign",),
    "min_cycle_positions": ("weights.min_cycle_positions",),
    "degrading_cycles": ("weights.degrading_cycles",),
    "approval_hours": ("approvals.hours",),
    "self_approve_max_q": ("weights.self_approve_max_q",),
    "forecast_grace_minutes": ("forecasts.grace_minutes",),
    "price_tolerance_minutes": ("forecasts.price_tolerance_minutes",),
    "flat_band_pct": ("forecasts.flat_band_pct",),
    "unresolvable_days": ("forecasts.unresolvable_days",),
    "performance_window_days": ("producers.window_days",),
    "performance_min_outcomes": ("producers.min_outcomes",),
    "agreement_block_hours": ("producers.agreement_block_hours",),
    "recalibration_min_outcomes": ("producers.recalibration_min_outcomes",),
    "recalibration_growth": ("producers.recalibration_growth",),
    "meta_min_outcomes": ("meta.min_outcomes",),
    "meta_min_episodes": ("meta.min_episodes",),
    "meta_min_share": ("meta.min_share",),
    "meta_state_hours": ("meta.state_hours",),
    "meta_approval_hours": ("approvals.meta_hours",),
    "health_min_observations": ("producers.health_min_observations",),
    "health_stale_minutes": ("producers.health_stale_minutes",),
    "mode_low_below": ("patterns.mode_low_below",),
    "mode_high_from": ("patterns.mode_high_from",),
    "mining_max_conditions": ("mining.max_conditions",),
    "mining_min_trades": ("mining.min_trades",),
    "mining_min_cell_trades": ("mining.min_cell_trades",),
    "mining_min_days": ("mining.min_days",),
    "mining_max_dimensions": ("mining.max_dimensions",),
    "mining_growth": ("mining.growth",),
    "lesson_max_q": ("mining.max_q",),
    "lesson_min_effect": ("mining.min_effect",),
    "lesson_baseline_rr": ("mining.baseline_rr",),
    "decay_shortest_hours": ("decay.shortest_hours",),
    "decay_longest_hours": ("decay.longest_hours",),
    "decay_min_evidence": ("decay.min_evidence",),
    "edge_min_samples": ("edge.min_samples",),
    "override_min_half_life_hours": ("decay.min_half_life_hours",),
    "override_shrink_trades": ("overrides.shrink_trades", "coefficients.shrink_trades", "edge.shrink_trades"),
    "override_size_slope": ("overrides.size_slope",),
    "override_min_size": ("overrides.min_size",),
    "override_max_size": ("overrides.max_size",),
    "override_threshold_slope": ("overrides.threshold_slope",),
    "override_threshold_limit": ("overrides.threshold_limit",),
    "override_approval_limit": ("overrides.approval_limit",),
    "override_half_lives": ("overrides.half_lives",),
    "override_days_without_decay": ("overrides.days_without_decay",),
    "override_specificity_power": ("overrides.specificity_power",),
    "coefficients_method": ("coefficients.method",),
    "coefficients_short_days": ("coefficients.short_days",),
    "coefficients_long_days": ("coefficients.long_days",),
    "coefficients_min_weight": ("coefficients.min_weight",),
    "coefficients_max_weight": ("coefficients.max_weight",),
}


class ImportsPolicy(PolicySection):
    """What an import may do, and how it reads other engines' files."""

    max_new_books: int = Field(
        default=100,
        ge=1,
        description="Most books that one import creates (count). A file that names more has a producer's or a trade's "
        "id for its book.",
    )
    split_tags: bool = Field(
        default=False,
        description="Whether an enter tag of freqtrade's with several words is of several producers, one a word.",
    )


class RetentionPolicy(PolicySection):
    """For how long the database keeps what grows with every close and can be told from rows that stay."""

    events_days: int | None = Field(
        default=90,
        ge=1,
        le=36_500,
        description="Days for which the events learning.outcome.v1, attribution.outcome.v1, forecast.v1 and "
        "forecast.outcome.v1 are kept after they were appended. Null: for ever. 90: a quarter in which an engine may "
        "send a close again and is answered with its karma steps of then.",
    )
    lesson_history_days: int | None = Field(
        default=365,
        ge=1,
        le=36_500,
        description="Days for which each version of an accepted lesson is kept; of older ones the newest stays. Null: "
        "for ever. 365: a lesson of a season is seen beside that of the last one.",
    )
    levers_days: int | None = Field(
        default=90,
        ge=1,
        le=36_500,
        description="Days for which levers are kept that no close was filled in from, after they were given; the "
        "others stay for ever. Null: for ever. 90: longer than most positions are open; an engine that asks every "
        "minute leaves 1,440 a day.",
    )
    archive: bool = Field(
        default=True,
        description="Whether what leaves is written to the archive (true) or is gone (false). True: events hold karma "
        "steps, which cannot be computed again.",
    )

    def days_of(self, table: Leaving) -> int | None:
        """Days for which a table's rows are kept; None: for ever."""
        match table:
            case Leaving.events:
                return self.events_days
            case Leaving.lesson_history:
                return self.lesson_history_days
            case Leaving.market_levers:
                return self.levers_days


class LearningPolicy(BaseModel):
    """What shapes learning. Overridden by a YAML file (``CLOSELOOP_POLICY``); unknown or impossible values are refused.

    What was decided stores the hash of the sections that it was decided with (:func:`hash_of`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    karma: KarmaPolicy = Field(
        default=KarmaPolicy(), description="Trust in producers by the trades that they signalled."
    )
    weights: WeightsPolicy = Field(
        default=WeightsPolicy(),
        description="Weights of domains: what a cycle looks at, how far it may move, when it gives up.",
    )
    forecasts: ForecastsPolicy = Field(
        default=ForecastsPolicy(), description="When a forecast is resolved, and what counts as right."
    )
    producers: ProducersPolicy = Field(
        default=ProducersPolicy(), description="What producers are worth by their forecasts, and their health."
    )
    meta: MetaPolicy = MetaPolicy()
    approvals: ApprovalsPolicy = Field(
        default=ApprovalsPolicy(),
        description="How long something waits for an operator, and who may decide. No number learned depends on it.",
    )
    patterns: PatternsPolicy = Field(
        default=PatternsPolicy(), description="How the circumstances of an action become a scope."
    )
    mining: MiningPolicy = MiningPolicy()
    decay: DecayPolicy = DecayPolicy()
    edge: EdgePolicy = Field(
        default=EdgePolicy(), description="How the factors of a lesson's edge score are weighed by regime signature."
    )
    overrides: OverridesPolicy = Field(
        default=OverridesPolicy(), description="What a lesson changes of size and thresholds, and for how long."
    )
    coefficients: CoefficientsPolicy = Field(
        default=CoefficientsPolicy(), description="How timeframes are weighed by their R."
    )
    market: MarketPolicy = Field(
        default=MarketPolicy(), description="How the prices of regime drivers are made, and their states read off them."
    )
    levers: LeversPolicy = Field(
        default=LeversPolicy(), description="How aggressive to be (A) and how ready to leave (E) in these states."
    )
    worth: WorthPolicy = Field(
        default=WorthPolicy(), description="When there is enough to say what states of the market have been worth."
    )
    corpus: CorpusPolicy = Field(default=CorpusPolicy(), description="At which scores skills move.")
    imports: ImportsPolicy = Field(default=ImportsPolicy(), description="What an import may do.")
    research: ResearchPolicy = Field(
        default=ResearchPolicy(),
        description="What research tells of trades, and how much of them a prompt holds. No number learned depends on "
        "it.",
    )

    retention: RetentionPolicy = Field(
        default=RetentionPolicy(),
        description="What leaves the database, and when. No number learned depends on it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _flat_names(cls, values: Any) -> Any:
        """A value under its flat name of 0.1 is put into its section; said twice, it is refused."""
        if not isinstance(values, dict):
            return values
        nested = {name: value for name, value in values.items() if name not in FLAT_NAMES}
        for name, value in values.items():
            for place in FLAT_NAMES.get(name, ()):
                section, field = place.split(".")
                into = nested.get(section, {})
                into = dict(into) if isinstance(into, dict) else into.model_dump(exclude_unset=True)
                if field in into:
                    raise ValueError(f"{name}: is also given as {place}; remove one of them")
                nested[section] = into | {field: value}
        return nested

    @cached_property
    def policy_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the policy as canonical JSON."""
        return hash_of(self)

    @cached_property
    def flat_hash(self) -> str:
        """The hash that 0.1 gave to a policy of these numbers; what was decided under it stays decided.

        Where fields that were one number then differ, no policy of 0.1 had these numbers, and the hash is none of its.
        """
        flat = {name: self._number_of_old(places) for name, places in FLAT_NAMES.items()}
        return hashlib.sha256(to_json(flat)).hexdigest()[:16]

    def _number_of_old(self, places: tuple[str, ...]) -> Any:
        numbers = [attrgetter(place)(self) for place in places]
        return numbers[0] if all(number == numbers[0] for number in numbers) else numbers
