"""What is shown of the market: the state of a driver on a timeframe, and what it was made of."""

from datetime import datetime

from pydantic import BaseModel, Field

from closeloop.models.market import Driver, Flag, MarketState, Timeframe


class Scores(BaseModel):
    """Scores of the uptrend engine, in [0, 1]; null where its state has none.

    Trend strength, overextension, deep dip, and exhaustion of S3.
    """

    ts: float | None = None
    ox: float | None = None
    dx: float | None = None
    edx: float | None = None


class ChannelAsOf(BaseModel):
    """The state of a driver on a timeframe that holds at an instant: of the newest bar that had ended.

    ``known_then``: it had been computed by that instant. One that was not is what it would have been: it uses nothing
    that came later, but nobody had it.
    """

    driver: Driver
    timeframe: Timeframe
    bar_end: datetime
    revision: int = Field(description="How often the bar's state was changed since it was first computed.")
    computed_at: datetime
    known_then: bool
    state: MarketState
    prev_state: MarketState | None
    provisional: bool = Field(description="Of a short series: its slowest averages have not seen their length yet.")
    flags: list[Flag]
    scores: Scores


class ChannelView(BaseModel):
    """The state of a driver on a timeframe as an operator is shown it: used by levers, or why it is not.

    ``warming_up``: its series is too short for a state to be used, ``bars`` of ``bars_needed`` so far. ``stale``: its
    newest state is older than levers use it. ``known_then`` and ``revision`` as of ChannelAsOf.
    """

    driver: Driver
    timeframe: Timeframe
    state: MarketState | None
    prev_state: MarketState | None
    flags: list[Flag]
    scores: Scores
    bar_end: datetime
    warming_up: bool
    stale: bool
    provisional: bool
    bars: int | None = Field(default=None, description="While it warms up.")
    bars_needed: int | None = None
    revision: int
    computed_at: datetime
    known_then: bool

    @property
    def used(self) -> bool:
        """Whether levers use it."""
        return not self.warming_up and not self.stale


class StateRun(BaseModel):
    """A stretch of bars of one state. Of a stretch that had begun before what was asked for, only the rest.

    ``flags``: how many of its bars had each flag. ``revision``: how often a state in it was changed since it was first
    computed, at most. ``published``: how many of its bars had a state that may be used.
    """

    driver: Driver
    timeframe: Timeframe
    from_: datetime = Field(serialization_alias="from", description="Start of its first bar.")
    to: datetime = Field(description="End of its last bar.")
    bars: int
    state: MarketState
    prev_state: MarketState | None = Field(description="The state before it; null: the engine begins here.")
    began_earlier: bool
    published: int
    flags: dict[Flag, int]
    revision: int
