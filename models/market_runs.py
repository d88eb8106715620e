"""A run of the market: what was collected, how far bars and states came, and what is to be said of it."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, Field

from closeloop.models.market import Timeframe
from closeloop.models.market_series import MarketAdvanced, SeriesAdvanced
from closeloop.models.market_sources import MarketCollected, MarketMode, SourceStanding, Unpolled

NOT_ASKED = "no worker asked the sources in time"
HELD = "another run holds a series: it brings it up to date"


class MarketRequest(BaseModel):
    """Collect what is due, and bring the series of a timeframe up to now; hours and days are made of minutes."""

    timeframe: Timeframe = Timeframe.m1
    continued: "MarketReport | None" = Field(
        default=None, description="What came out before the history was begun anew; the workflow's own."
    )


class TimeframeReport(BaseModel):
    """What became of a timeframe's series."""

    timeframe: Timeframe
    series: list[SeriesAdvanced] = []

    def add(self, series: Iterable[SeriesAdvanced]) -> None:
        """Count a batch: sums of what was written, and where each series stands now."""
        known = {one.driver: one for one in self.series}
        for one in series:
            if before := known.get(one.driver):
                counted = {name: getattr(one, name) + getattr(before, name) for name in _COUNTED}
                known[one.driver] = one.model_copy(update=counted)
            else:
                known[one.driver] = one
        self.series = list(known.values())

    @property
    def caught_up(self) -> bool:
        """Whether more came than the newest bar: bars that were missing, or others than there were."""
        return any(one.bars > 1 or one.bars_changed for one in self.series)

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        bars, states = (sum(getattr(one, name) for one in self.series) for name in ("bars", "states"))
        changed = sum(one.bars_changed + one.states_changed for one in self.series)
        text = f"{self.timeframe}: {bars:,} bars, {states:,} states"
        if changed:
            text += f", {changed:,} computed anew"
        published = [f"{one.driver} {one.state}" for one in self.series if one.published and one.state]
        ends = [one.bar_end for one in self.series if one.published and one.bar_end]
        if published:
            text += f"; {', '.join(published)} at {max(ends):%Y-%m-%d %H:%M} UTC"
        return text


class MarketReport(BaseModel):
    """What a run came to."""

    timeframe: Timeframe
    until: datetime = Field(description="Bars that had ended by then are in it.")
    mode: MarketMode | None = Field(default=None, description="The worker's CLOSELOOP_MARKET; null: none answered.")
    not_asked: str | None = Field(default=None, description="Why the sources were not asked, though they should be.")
    candles: dict[str, int] = Field(default={}, description="New candles, by source.")
    polled: bool = False
    without: dict[str, str] = Field(default={}, description="Dominances that CoinGecko's answer did not have, and why.")
    unpolled: Unpolled | None = Field(default=None, description="The time without a poll that this run ended.")
    sources: list[SourceStanding] = []
    timeframes: list[TimeframeReport] = []
    failed: dict[str, str] = Field(default={}, description="Why series could not be advanced: '1m ALT' and a reason.")

    def collected(self, batch: MarketCollected) -> None:
        """Add what the sources gave."""
        self.mode, self.sources = batch.mode, batch.sources
        for source, candles in batch.candles.items():
            self.candles[source] = self.candles.get(source, 0) + candles
        self.polled = self.polled or batch.polled
        self.without |= batch.without
        self.unpolled = batch.unpolled or self.unpolled

    def advanced(self, batch: MarketAdvanced) -> None:
        """Add what became of a timeframe's series."""
        self.of(batch.timeframe).add(batch.series)
        for one in batch.series:
            self.failed.pop(f"{batch.timeframe} {one.driver}", None)
        for driver, reason in batch.failed.items():
            self.failed[f"{batch.timeframe} {driver}"] = reason[:300]

    def of(self, timeframe: Timeframe) -> TimeframeReport:
        """What became of a timeframe's series so far."""
        for one in self.timeframes:
            if one.timeframe == timeframe:
                return one
        self.timeframes.append(TimeframeReport(timeframe=timeframe))
        return self.timeframes[-1]

    @property
    def failures(self) -> dict[str, str]:
        """Everything that failed, and why."""
        found = {one.source: one.sentence for one in self.sources if one.failing}
        if self.not_asked:
            found["sources"] = self.not_asked
        return found | self.failed

    @property
    def asked(self) -> str:
        """What the sources gave, for a person."""
        if self.mode is None:
            return NOT_ASKED
        if self.mode != "sources":
            return f"CLOSELOOP_MARKET is {self.mode} where the worker runs: nobody was asked, from what is on record"
        text = f"{sum(self.candles.values()):,} new candles"
        text += ", a new poll of dominances" if self.polled else ""
        for name, why in self.without.items():
            text += f", no {name} ({why})"
        return text

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        parts = [self.asked, *(one.sentence for one in self.timeframes)]
        if self.unpolled:
            parts.append(self.unpolled.sentence)
        parts += [one.sentence for one in self.sources if one.failing]
        parts += [f"{name}: {reason}" for name, reason in self.failed.items()]
        return "; ".join(parts)


_COUNTED = ("bars", "bars_changed", "states", "states_changed")
