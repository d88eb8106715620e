"""The market's series, a batch of each in one transaction: candles to minutes, minutes to hours and days, bars to
states.

Each stage goes on from its newest checkpoint, or from one before what changed, and writes only what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.carry import Carry
from closeloop.learning.market.composite import FOR_EVER, Spans
from closeloop.learning.market.engine import STATES, advance
from closeloop.learning.market.minutes import Minutes, MinutesCarry, minutes
from closeloop.learning.market.rollup import rollup
from closeloop.models.market import BUCKETS, DOMINANCES, Driver, Timeframe, priced_as
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.market_series import SeriesAdvanced
from closeloop.services.market_series import counts, fingerprint, remembered
from closeloop.store.market.bars import AssetSpan, SeriesBars, Span
from closeloop.store.market.changes import of_asset, of_bars, of_bucket
from closeloop.store.market.checkpoints import Asked, Checkpoint, NewCheckpoint, Stage
from closeloop.store.market.states import SeriesStates

MINUTE = Timeframe.m1
CANDLES_AT_ONCE = 50_000
"""Candles of a driver's components that are read at once: memory, about 15 MB."""
LEAST_MINUTES = 60
ROLLED_MINUTES = 14 * 1_440
"""Minutes of a driver that are rolled up at once."""

Memberships = Mapping[Driver, Mapping[str, Spans]]
"""When each asset is a component of each driver, in seconds since 1970: from, until before."""


@dataclass
class Series:
    """A driver's series while it is advanced. ``limit``: its bars that end by then are as they should be; None:
    nothing is known of them. ``changed``: the start of the first bar that is not as it was. ``more``: a batch was full.
    """

    driver: Driver
    told: SeriesAdvanced = field(init=False)
    limit: datetime | None = None
    changed: datetime | None = None
    more: bool = False

    def __post_init__(self) -> None:
        self.told = SeriesAdvanced(driver=self.driver)

    def change(self, start: datetime) -> None:
        """Bars from this one on are not as they were."""
        self.changed = start if self.changed is None else min(start, self.changed)


@dataclass(frozen=True)
class Advance:
    """One batch of series of a timeframe, up to bars that ended by ``until``, in the transaction of ``session``."""

    session: AsyncSession
    timeframe: Timeframe
    until: datetime
    policy: MarketPolicy
    batch_bars: int

    async def run(self, drivers: Sequence[Driver]) -> tuple[list[SeriesAdvanced], bool]:
        """What became of those series that no other transaction holds, and whether there is more to do."""
        held = await store.locks.market_series(self.session, self.timeframe, drivers)
        series = {driver: Series(driver) for driver in held}
        if self.timeframe == MINUTE:
            await self._minutes(series)
        else:
            await self._rolled(series)
        await self._states(series)
        more = len(held) < len(drivers) or any(each.more for each in series.values())
        return [each.told for each in series.values()], more

    # -- minutes of components

    async def _minutes(self, series: dict[Driver, Series]) -> None:
        components = await self._components()
        since = await self._take_changes(series, components)
        for driver, each in series.items():
            if driver in DOMINANCES:
                each.limit = self.until
                if driver in since:
                    each.change(since[driver])
        composed = [driver for driver in series if driver not in DOMINANCES]
        of_policy = fingerprint(Stage.bars, self.policy)
        found = await store.market.checkpoints.load(
            self.session, MINUTE, [Asked(driver, Stage.bars, of_policy, since.get(driver)) for driver in composed]
        )
        carries = {driver: remembered(found.get((driver, Stage.bars))) for driver in composed}
        bases = {driver: found[driver, Stage.bars].bar_end for driver, carry in carries.items() if carry is not None}
        ends = await self._ends(composed, bases, components)
        spans = [
            span for driver in composed for span in _spans(driver, components[driver], bases.get(driver), ends[driver])
        ]
        candles: dict[Driver, dict[str, list[Bars]]] = {driver: {} for driver in composed}
        for span, bars in zip(spans, await store.market.bars.candles(self.session, spans), strict=True):
            candles[span.driver].setdefault(span.asset, []).append(bars)
        made = {
            driver: minutes(
                driver,
                {asset: Bars.joined(parts) for asset, parts in candles[driver].items()},
                int(self.until.timestamp()),
                self.policy,
                carries[driver],
                components[driver] if driver in BUCKETS else None,
            )
            for driver in composed
        }
        for driver in composed:
            series[driver].limit = ends[driver]
            series[driver].more = ends[driver] < self.until
        await self._write_bars(
            series,
            [
                SeriesBars(
                    Span(driver, _floor(bases[driver], MINUTE) if driver in bases else None, ends[driver]),
                    of_driver.bars,
                    "candles" if driver == Driver.btc else "composite",
                    of_driver.component_count,
                )
                for driver, of_driver in made.items()
            ],
        )
        await self._remember_minutes(made, carries, bases, since)

    async def _components(self) -> Memberships:
        """When each asset is a component of each driver that has components."""
        always: Spans = [(0, FOR_EVER)]
        of_buckets = await store.market.bars.memberships(self.session)
        return {
            Driver.btc: {priced_as(Driver.btc): always},
            Driver.alt: {priced_as(name): always for name in self.policy.alt_components},
            **{bucket: of_buckets.get(bucket, {}) for bucket in BUCKETS},
        }

    async def _take_changes(self, series: Mapping[Driver, Series], components: Memberships) -> dict[Driver, datetime]:
        """From where on each driver has to be computed anew, by what changed under it; drivers that are not ours are
        told of it."""
        subjects = [of_bars(driver, MINUTE) for driver in series]
        subjects += [of_bucket(bucket) for bucket in BUCKETS]
        subjects += {of_asset(asset) for assets in components.values() for asset in assets}
        marks = await store.market.changes.take(self.session, dict.fromkeys(subjects))
        since: dict[Driver, datetime] = {}
        for driver in Driver:
            starts = [marks[name] for name in (of_bars(driver, MINUTE), of_bucket(driver)) if name in marks]
            for asset, spans in components.get(driver, {}).items():
                if (mark := marks.get(of_asset(asset))) and (start := _first_within(spans, mark)):
                    starts.append(start)
            if starts:
                since[driver] = min(starts)
        others = {of_bars(driver, MINUTE): start for driver, start in since.items() if driver not in series}
        await store.market.changes.mark(self.session, others)
        return {driver: start for driver, start in since.items() if driver in series}

    async def _ends(
        self, drivers: Sequence[Driver], bases: Mapping[Driver, datetime], components: Memberships
    ) -> dict[Driver, datetime]:
        """Until when each driver's candles are taken in this batch: bounded, and with at least one if there is any."""
        ends = dict.fromkeys(drivers, self.until)
        most = {
            driver: timedelta(
                minutes=max(LEAST_MINUTES, min(self.batch_bars, CANDLES_AT_ONCE // max(1, len(components[driver]))))
            )
            for driver in drivers
        }
        far = [driver for driver in drivers if driver not in bases or self.until - bases[driver] > most[driver]]
        asked = [span for driver in far for span in _spans(driver, components[driver], bases.get(driver), self.until)]
        for driver, first_end in (await store.market.bars.first_ends(self.session, asked)).items():
            ends[driver] = min(self.until, _floor(first_end, MINUTE) + most[driver])
        return ends

    async def _remember_minutes(
        self,
        made: Mapping[Driver, Minutes],
        carries: Mapping[Driver, MinutesCarry | None],
        bases: Mapping[Driver, datetime],
        since: Mapping[Driver, datetime],
    ) -> None:
        of_policy = fingerprint(Stage.bars, self.policy)
        new = [
            NewCheckpoint(
                driver,
                Stage.bars,
                of_policy,
                bases.get(driver),
                Checkpoint(datetime.fromtimestamp(of_driver.newest_end, UTC), of_driver.carry.to_bytes()),
            )
            for driver, of_driver in made.items()
            if of_driver.newest_end is not None
        ]
        await store.market.checkpoints.write(self.session, MINUTE, new)
        gone = [driver for driver in since if driver in made and made[driver].newest_end is None]
        await store.market.checkpoints.drop(
            self.session, MINUTE, [(driver, Stage.bars, bases.get(driver)) for driver in gone]
        )
        counted = {
            driver: counts(of_driver)
            for driver, of_driver in made.items()
            if driver in since or of_driver.carry.counters != (carries[driver] or MinutesCarry()).counters
        }
        await store.market.bars.count(self.session, counted)

    # -- hours and days of minutes

    async def _rolled(self, series: dict[Driver, Series]) -> None:
        of_policy = fingerprint(Stage.bars, self.policy)
        composed = [driver for driver in series if driver not in DOMINANCES]
        taken = await store.market.checkpoints.load(
            self.session, MINUTE, [Asked(driver, Stage.bars, of_policy) for driver in composed]
        )
        for driver, each in series.items():
            # A source that is down makes no bar: an hour is complete once there is a candle of its last minute, or a
            # later one. A dominance is polled now and then: its hour ends with the hour.
            if driver in DOMINANCES:
                each.limit = self.until
            elif (driver, Stage.bars) in taken:
                each.limit = _floor(min(self.until, taken[driver, Stage.bars].bar_end), self.timeframe)
        subjects = {
            of_bars(driver, self.timeframe): each.limit for driver, each in series.items() if each.limit is not None
        }
        marks = await store.market.changes.take(self.session, subjects)
        spans = []
        for driver, each in series.items():
            mark = marks.get(of_bars(driver, self.timeframe))
            if mark is not None and each.limit is not None:
                first = _floor(mark, self.timeframe)
                end = min(each.limit, first + timedelta(minutes=ROLLED_MINUTES))
                each.more = end < each.limit
                each.limit = end
                spans.append(Span(driver, first, end))
        read = await store.market.bars.read(self.session, MINUTE, spans, ROLLED_MINUTES)
        rolled = []
        for span in spans:
            bars, components = read.get(span.driver, (Bars.of(()), None))
            made = rollup(bars, self.timeframe.seconds, components)
            rolled.append(SeriesBars(span, made.bars, "rollup", made.component_count, made.n_source))
        await self._write_bars(series, rolled)
        await store.market.changes.mark(
            self.session, {of_bars(span.driver, self.timeframe): span.until for span in spans}
        )

    async def _write_bars(self, series: Mapping[Driver, Series], bars: Sequence[SeriesBars]) -> None:
        written = await store.market.bars.write(self.session, self.timeframe, bars)
        longer = [timeframe for timeframe in Timeframe if timeframe != MINUTE]
        marks: dict[str, datetime] = {}
        for driver, of_driver in written.items():
            each = series[driver]
            each.told.bars, each.told.bars_changed = of_driver.new, of_driver.changed
            each.change(of_driver.first)
            if self.timeframe == MINUTE:
                marks |= {of_bars(driver, timeframe): of_driver.first for timeframe in longer}
        await store.market.changes.mark(self.session, marks)

    # -- states of bars

    async def _states(self, series: Mapping[Driver, Series]) -> None:
        of_policy = fingerprint(Stage.engine, self.policy)
        found = await store.market.checkpoints.load(
            self.session,
            self.timeframe,
            [Asked(driver, Stage.engine, of_policy, each.changed) for driver, each in series.items()],
        )
        carries = {driver: _carry(found.get((driver, Stage.engine))) for driver in series}
        bases = {driver: found[driver, Stage.engine].bar_end for driver, carry in carries.items() if carry is not None}
        spans = [
            Span(driver, bases.get(driver), each.limit) for driver, each in series.items() if each.limit is not None
        ]
        # One more than a batch: what is told to be more is there.
        read = await store.market.bars.read(self.session, self.timeframe, spans, self.batch_bars + 1)
        states, checkpoints, gone = [], [], []
        for span in spans:
            each, base, rows, until = series[span.driver], bases.get(span.driver), None, span.until
            if span.driver in read:
                bars, _ = read[span.driver]
                full = len(bars) > self.batch_bars
                bars = bars[: self.batch_bars]
                _check(bars)
                rows, carry = advance(carries[span.driver], bars, self.timeframe, self.policy)
                carries[span.driver] = carry
                end = datetime.fromtimestamp(carry.last_start, UTC) + self.timeframe.step
                checkpoint = Checkpoint(end, carry.to_bytes())
                checkpoints.append(NewCheckpoint(span.driver, Stage.engine, of_policy, base, checkpoint))
                if full:
                    each.more, until = True, end
            elif each.changed is None:
                continue
            else:
                gone.append((span.driver, Stage.engine, base))
            states.append(SeriesStates(span.driver, base, until, rows))
        for driver, (new, changed) in (await store.market.states.write(self.session, self.timeframe, states)).items():
            series[driver].told.states, series[driver].told.states_changed = new, changed
        await store.market.checkpoints.write(self.session, self.timeframe, checkpoints)
        await store.market.checkpoints.drop(self.session, self.timeframe, gone)
        for driver, each in series.items():
            self._tell(each.told, carries[driver])

    def _tell(self, told: SeriesAdvanced, carry: Carry | None) -> None:
        """Where a series stands."""
        if carry is not None and carry.machine.state >= 0:
            told.bar_end = datetime.fromtimestamp(carry.last_start, UTC) + self.timeframe.step
            told.state = STATES[carry.machine.state]
            told.published = carry.bars >= self.policy.published_bars[self.timeframe]


def _spans(driver: Driver, assets: Mapping[str, Spans], after: datetime | None, until: datetime) -> list[AssetSpan]:
    """Where candles of a driver's components count: those that start while their asset belongs to it."""
    found = []
    for asset, spans in assets.items():
        for start, end in spans:
            first = _instant(start + MINUTE.seconds - 1) if start else None
            last = min(until, _instant(end + MINUTE.seconds - 1)) if end < FOR_EVER else until
            begins = max(first, after) if first and after else first or after
            if begins is None or begins < last:
                found.append(AssetSpan(driver, asset, begins, last))
    return found


def _first_within(spans: Spans, start: datetime) -> datetime | None:
    """The first instant from ``start`` on that lies in one of the spans."""
    at = int(start.timestamp())
    within = [max(at, begin) for begin, end in spans if end > at]
    return _instant(min(within)) if within else None


def _carry(checkpoint: Checkpoint | None) -> Carry | None:
    """What a checkpoint of the engine remembers; None where there is none, or it is damaged."""
    try:
        return None if checkpoint is None else Carry.from_bytes(checkpoint.carry)
    except ValueError:
        return None


def _check(bars: Bars) -> None:
    """Raise ValueError for bars on record that ``learning.market.bars.accept`` would not have accepted."""
    low, high = bars.low, bars.high
    sound = (low > 0) & np.isfinite(high) & (bars.volume >= 0) & np.isfinite(bars.volume)
    for price in (bars.open, bars.close):
        sound &= (price >= low) & (price <= high)
    if not sound.all():
        start = _instant(int(bars.start[np.argmin(sound)]))
        raise ValueError(f"the bar of {start:%Y-%m-%d %H:%M} on record has impossible prices")


def _floor(at: datetime, timeframe: Timeframe) -> datetime:
    """The start of the bar that an instant lies in."""
    return _instant(int(at.timestamp()) // timeframe.seconds * timeframe.seconds)


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
