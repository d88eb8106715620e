"""What is asked of the market's sources, and how each of them does."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from closeloop.models.market import Driver, Timeframe

MarketMode = Literal["off", "recorded", "sources"]
"""What the market's schedules do. off: there are none; recorded: states from what is on record; sources: Binance and
CoinGecko are asked first."""

COINGECKO = "coingecko"
CANDLES = "binance/"


def candles_of(asset: str) -> str:
    """The source of an asset's candles.

    >>> candles_of("BTC/USDT")
    'binance/BTC/USDT'
    """
    return CANDLES + asset


class CollectMarket(BaseModel):
    """Ask the market's sources for what is due, for a few seconds."""


class SourceStanding(BaseModel):
    """How a source does: what it said when it was asked last."""

    source: str
    asked_at: datetime
    answered_at: datetime | None = Field(default=None, description="When it answered last.")
    updated_at: datetime | None = Field(default=None, description="As of when its last answer is, as it says.")
    collected_until: datetime | None = Field(
        default=None, description="Up to where everything that it has is on record: the end of a candle."
    )
    failures: int = Field(default=0, description="Failures in a row.")
    reason: str | None = Field(default=None, description="Why it failed the last time; null where it answered.")
    next_attempt_at: datetime | None = Field(default=None, description="It is not asked again before this.")

    @property
    def failing(self) -> bool:
        """Whether it failed when it was asked last."""
        return self.reason is not None

    @property
    def sentence(self) -> str:
        """Its last answer, or since when, why, and until when there is none."""
        if self.failing:
            since = f"gives nothing since {_at(self.answered_at)}" if self.answered_at else "has given nothing yet"
            again = f"; asked again from {_at(self.next_attempt_at)}" if self.next_attempt_at else ""
            return f"{self.source} {since} ({self.reason}; {self.failures} times in a row){again}"
        if self.source == COINGECKO:
            return f"{self.source} answered at {_at(self.answered_at)}, as of {_at(self.updated_at)}"
        until = f"candles until {_at(self.collected_until)}" if self.collected_until else "it has given no candle"
        return f"{self.source} answered at {_at(self.answered_at)}: {until}"


class Unpolled(BaseModel):
    """A time in which nobody told the dominances."""

    from_at: datetime
    to_at: datetime

    @property
    def sentence(self) -> str:
        """What it means, for a person."""
        return (
            f"no dominances from {_at(self.from_at)} to {_at(self.to_at)}: nobody tells them later, so BTC.d and "
            "USDT.d have no bars of that time"
        )


class MarketCollected(BaseModel):
    """What the sources gave. ``more``: there is more to ask for at once."""

    mode: MarketMode
    candles: dict[str, int] = Field(default={}, description="New candles, by source; those with none are left out.")
    polled: bool = Field(default=False, description="CoinGecko gave dominances that are newer than those before.")
    without: dict[str, str] = Field(default={}, description="Dominances that its answer did not have, and why.")
    unpolled: Unpolled | None = Field(default=None, description="The time without a poll that this one ended.")
    sources: list[SourceStanding] = []
    more: bool = False


class StillSeries(BaseModel):
    """A series whose newest state is too old to be used for levers."""

    driver: Driver
    timeframe: Timeframe
    bar_end: datetime

    @property
    def sentence(self) -> str:
        """Since when it stands still, for a person."""
        return f"{self.driver} {self.timeframe} stands still since {_at(self.bar_end)}"


class MarketStatus(BaseModel):
    """How the market's sources and series do."""

    mode: MarketMode = Field(description="CLOSELOOP_MARKET of the process that looked.")
    newest: datetime | None = Field(default=None, description="End of the newest bar with a state.")
    sources: list[SourceStanding] = []
    still: list[StillSeries] = Field(default=[], description="Series that stand still though they should not.")
    unpolled: list[Unpolled] = Field(default=[], description="Times of the last week, the newest ten.")

    @property
    def sentence(self) -> str:
        """Whether it goes on, for a person."""
        states = f"the newest state is of {_at(self.newest)}" if self.newest else "there are no states yet"
        return f"CLOSELOOP_MARKET is {self.mode} here; {states}"


def _at(instant: datetime | None) -> str:
    return "an unknown time" if instant is None else f"{instant:%Y-%m-%d %H:%M} UTC"
