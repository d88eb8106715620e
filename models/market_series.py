"""Messages of the market's computation: from candles and polls on record to bars, states and checkpoints."""

from datetime import datetime

from pydantic import BaseModel, Field

from closeloop.models.market import Driver, MarketState, Timeframe


class AdvanceMarket(BaseModel):
    """Bring every series of a timeframe up to its bars that had ended by ``until``.

    One minute: the drivers' minutes are made of their components' candles first. An hour and a day are rolled up from
    the drivers' minutes.
    """

    timeframe: Timeframe
    until: datetime


class SeriesAdvanced(BaseModel):
    """What became of a driver's series: bars written and bars changed, and the same of states; where it stands now."""

    driver: Driver
    bars: int = 0
    bars_changed: int = 0
    states: int = 0
    states_changed: int = 0
    bar_end: datetime | None = Field(default=None, description="Of the newest bar with a state.")
    state: MarketState | None = None
    published: bool = False


class MarketAdvanced(BaseModel):
    """What an advance did, by driver. ``more``: a batch was full or another one holds a series; ask again."""

    timeframe: Timeframe
    series: list[SeriesAdvanced]
    failed: dict[str, str] = Field(default={}, description="Why a driver's series could not be advanced, by driver.")
    more: bool = False
