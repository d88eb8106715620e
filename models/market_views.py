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
