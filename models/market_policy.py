"""The policy's sections of the market: prices and states of regime drivers, and the levers that follow from them.

What states depend on is in one section and what A and E make of them in another: another weight of a driver computes
no state again.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from closeloop.models.policy_section import PolicySection


def _over(defaults: Mapping[str, Any]) -> Any:
    """A table of which a policy file may name some entries: others keep their defaults, unknown ones are refused."""

    def over(given: Any, defaults: Mapping[str, Any] = defaults) -> Any:
        if not isinstance(given, Mapping):
            return given
        unknown = sorted(str(name) for name in given if name not in defaults)
        if unknown:
            raise ValueError(f"has no {unknown[0]}: it has {', '.join(defaults)}")
        return {
            name: over(given[name], default)
            if isinstance(default, Mapping) and name in given
            else given.get(name, default)
            for name, default in defaults.items()
        }

    return BeforeValidator(over)


Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Pair = tuple[Number, Number]

_SPIKES = {"major": 0.20, "token": 1.00, "dominance": 0.10}
_PUBLISHED = {"1m": 333, "1h": 333, "1d": 150}


class MarketPolicy(PolicySection):
    """How the prices of regime drivers are made, and their states read off them."""

    alt_components: tuple[str, ...] = Field(
        default=("SOL", "ETH", "BNB", "HYPE"),
        min_length=1,
        max_length=100,
        description="Assets that the driver ALT is made of, in USDT where they name no pair. These four: the seed's.",
    )
    composite: Literal["log_index", "mean_of_prices"] = Field(
        default="log_index",
        description="How ALT and the buckets are made of their components: an equal-weighted index of log returns, or "
        "the mean of prices that closeloop was first specified with, which is four fifths ETH and jumps whenever a "
        "component comes or goes.",
    )
    min_components: int = Field(
        default=3,
        ge=1,
        description="Members below which a composite has no bar (count). 3: one that is wrong is outvoted.",
    )
    member_stale_hours: float = Field(
        default=24.0,
        gt=0.0,
        le=24.0 * 365,
        description="Age of a component's last bar at which it leaves its composite (hours); it re-enters as new.",
    )
    spike_limits: Annotated[dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]], _over(_SPIKES)] = Field(
        default=_SPIKES,
        description="Move within a minute above which a bar is dropped unless the next one confirms it (log return), "
        "and how far wicks may reach. 0.20: majors do not move so far in a minute; a small token may double.",
    )
    start_bars: int = Field(
        default=100, ge=28, description="The bar of a series at which the uptrend engine starts (count)."
    )
    published_bars: Annotated[dict[str, Annotated[int, Field(ge=1)]], _over(_PUBLISHED)] = Field(
        default=_PUBLISHED,
        description="The bar from which on states of a timeframe are used (count). 333: the slowest average has seen "
        "its length once; 150 of days, since few have a year of history.",
    )
    settled_bars: int = Field(
        default=333, ge=1, description="The bar up to which a state that is used already is called provisional (count)."
    )
    flip_atr: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="How far beyond EMA333 a price changes between S1 and S2 (in ATR). 0: the seed's; 0.5 halves the "
        "changes on real candles.",
    )


_DRIVERS = {"BTC": 1.0, "ALT": 1.5, "bucket": 3.0, "BTC.d": -1.0, "USDT.d": -3.0}
_TIMEFRAMES = {"1d": 0.50, "1h": 0.40, "1m": 0.10}
_EXECUTION = {
    "1m": {"1d": 0.05, "1h": 0.35, "1m": 0.60},
    "5m": {"1d": 0.10, "1h": 0.50, "1m": 0.40},
    "15m": {"1d": 0.15, "1h": 0.55, "1m": 0.30},
    "1h": {"1d": 0.30, "1h": 0.55, "1m": 0.15},
    "4h": {"1d": 0.55, "1h": 0.40, "1m": 0.05},
    "1d": {"1d": 0.80, "1h": 0.18, "1m": 0.02},
}
_STATES = {"S0": (-0.30, 0.30), "S1": (0.25, -0.15), "S2": (0.10, 0.05), "S3": (0.20, -0.05), "S4": (0.0, 0.0)}
_FLAGS = {
    "S1+buy_signal": (0.20, -0.10),
    "S2+buy_flag": (0.10, -0.05),
    "S2+trim_flag": (-0.20, 0.25),
    "S3+buy_flag": (0.05, -0.05),
    "S3+trim_flag": (-0.25, 0.30),
    "S3+first_dip_buy_flag": (0.15, -0.10),
}
_TRANSITIONS = {"S1>S0": (-0.40, 0.40), "S2>S0": (-0.35, 0.35), "S3>S0": (-0.50, 0.50)}
_INTENT = {
    "hi_buy": (0.25, -0.10),
    "med_buy": (0.15, -0.05),
    "profit": (-0.15, 0.15),
    "sell": (-0.25, 0.35),
    "mock": (-0.30, 0.50),
}
_MAX_AGE = {"1m": 5.0, "1h": 120.0, "1d": 2880.0}


class LeversPolicy(PolicySection):
    """How aggressive to be (A) and how ready to leave (E) in which states. What these numbers have been worth is
    measured (``closeloop market evidence``); they were chosen by hand."""

    driver_weights: Annotated[dict[str, Number], _over(_DRIVERS)] = Field(
        default=_DRIVERS,
        description="Weight of each driver (factor) until another one is approved; negative: its rise means less "
        "appetite. bucket: that of the token's own bucket.",
    )
    timeframe_weights: Annotated[dict[str, Share], _over(_TIMEFRAMES)] = Field(
        default=_TIMEFRAMES, description="Weight of each timeframe of a driver (factor): slow ones set the climate."
    )
    execution_weights: Annotated[dict[str, dict[str, Share]], _over(_EXECUTION)] = Field(
        default=_EXECUTION,
        description="Weight of a driver's timeframe by the timeframe that is traded (factor): who trades minutes "
        "listens to minutes. Other execution timeframes are refused.",
    )
    regime_strength: float = Field(
        default=1.0,
        ge=0.0,
        le=10.0,
        description="What the sum over all drivers is multiplied with (factor). 1: as the seed has it; the products of "
        "the three weights do not sum to 1, and A is often clamped, which a smaller one avoids.",
    )
    state_deltas: Annotated[dict[str, Pair], _over(_STATES)] = Field(
        default=_STATES, description="What a driver's state adds to A and to E, before its weight (points)."
    )
    flag_deltas: Annotated[dict[str, Pair], _over(_FLAGS)] = Field(
        default=_FLAGS,
        description="What a flag in its state adds to A and to E (points); in other states it is ignored.",
    )
    transition_deltas: Annotated[dict[str, Pair], _over(_TRANSITIONS)] = Field(
        default=_TRANSITIONS,
        description="What the fall into S0 adds to A and to E while the bar on which it fell is the newest (points).",
    )
    intent_deltas: Annotated[dict[str, Pair], _over(_INTENT)] = Field(
        default=_INTENT, description="What an intent metric of 1 adds to A and to E (points)."
    )
    intent_cap: float = Field(
        default=0.4,
        ge=0.0,
        le=1.0,
        description="Most that all intent metrics together move A or E, either way (points).",
    )
    rank_adjustments: tuple[Number, ...] = Field(
        default=(0.12, 0.06, 0.02, -0.02, -0.06, -0.12),
        max_length=100,
        description="What the bucket's rank adds to the multiplier, from rank 1 on (factor); other ranks add nothing.",
    )
    slope_weight: float = Field(
        default=0.4, ge=0.0, le=10.0, description="What a bucket's slope of 1 adds to the multiplier (factor)."
    )
    min_confidence: Share = Field(
        default=0.4,
        description="Confidence in the bucket's rank and slope below which the multiplier is 1 (share of 1).",
    )
    context_hours: int = Field(
        default=24,
        ge=2,
        le=24 * 90,
        description="Newest hours of the buckets' indices that rank, slope and confidence are computed from where the "
        "engine does not send them. 24: a day, so that every hour of it is in them once.",
    )
    context_min_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="Share of these hours that a bucket's index needs to be ranked (share of 1)."
    )
    min_multiplier: float = Field(
        default=0.7, gt=0.0, le=1.0, description="Smallest multiplier that a bucket's rank and slope give (factor)."
    )
    max_multiplier: float = Field(
        default=1.3, ge=1.0, le=10.0, description="Largest multiplier that a bucket's rank and slope give (factor)."
    )
    min_divisor: float = Field(
        default=0.2, gt=0.0, le=1.0, description="Least that E is divided by in place of the multiplier (factor)."
    )
    base_size: Share = Field(default=0.10, description="Position size at A = 0 (share of the portfolio).")
    size_slope: Share = Field(
        default=0.50, description="What A = 1 adds to the position size (share of the portfolio)."
    )
    max_age_minutes: Annotated[dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]], _over(_MAX_AGE)] = (
        Field(
            default=_MAX_AGE,
            description="Age at which a timeframe's newest state is too old to be used (minutes after its bar's end).",
        )
    )
    max_age_dominance_minutes: float = Field(
        default=30.0,
        gt=0.0,
        description="The same of one-minute states of BTC.d and USDT.d (minutes). 30: their source is refreshed every "
        "ten minutes.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base_size + self.size_slope > 1.0:
            raise ValueError("size_slope: must leave base_size + size_slope at most 1; lower it")
        return self


class WorthPolicy(PolicySection):
    """What states of the market have been worth: when there is enough to say something, and how often it is looked at.
    Luck of periods and symbols is weighed with the numbers of ``mining``."""

    min_trades: int = Field(
        default=33, ge=2, description="Trades in a state, and in others, below which nothing is said of it (count)."
    )
    min_spells: int = Field(
        default=6,
        ge=2,
        description="Spells of a state, and of others, below which nothing is said of it (count). 6: of fewer, one "
        "that went well decides.",
    )
    max_q: float = Field(
        default=0.05,
        gt=0.0,
        lt=1.0,
        description="Highest Benjamini-Yekutieli q of what is told from noise (probability).",
    )
    growth: float = Field(
        default=0.10,
        ge=0.0,
        description="New trades after which evidence is looked at again (share of those that it was last looked at "
        "with). Repeated looks find noise sooner or later.",
    )
    factor_step: float = Field(
        default=0.25,
        gt=0.0,
        le=1.0,
        description="How far one approved proposal moves a driver's factor in a book's levers (factor).",
    )
    factor_range: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="How far from 1 a driver's factor may get (factor). Below 1, so that no driver is turned around "
        "or switched off by what trades said.",
    )
