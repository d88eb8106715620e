"""A polled dominance as a bar of its driver, and what the numbers of the policy are that a series was computed with."""

import math
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.minutes import Minutes, MinutesCarry, minutes
from closeloop.models.market import DOMINANCES, Driver, Timeframe
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.policy_section import hash_of
from closeloop.store.market.bars import SeriesBars, Span
from closeloop.store.market.checkpoints import Asked, Checkpoint, NewCheckpoint, Stage

_MINUTE = Timeframe.m1
_OF_BARS = {"alt_components", "composite", "min_components", "member_stale_hours", "spike_limits"}
# Raised where the computation itself changes, so that series are computed anew.
_VERSIONS = {Stage.bars: 1, Stage.engine: 1}
_DEFAULT = MarketPolicy()


def fingerprint(stage: Stage, policy: MarketPolicy) -> str:
    """What a stage is computed with: the version of the computation, and a hash of its numbers of the policy."""
    of_engine = policy.model_copy(update={name: getattr(_DEFAULT, name) for name in _OF_BARS})
    of_bars = _DEFAULT.model_copy(update={name: getattr(policy, name) for name in _OF_BARS})
    return f"{_VERSIONS[stage]}-{hash_of(of_bars if stage == Stage.bars else of_engine)}"


async def take_dominance(
    session: AsyncSession, driver: Driver, at: datetime, value: float | None, policy: MarketPolicy
) -> bool:
    """Write what a poll said of a dominance (percent) as the bar of the minute in which it was answered, in the
    caller's transaction; returns whether there is a bar of it.

    ``at``: when the answer came, not what it is as of: nobody knew it before. Call it only where the source's
    ``updated_at`` has advanced; calling it twice changes nothing. Of several polls of a minute the last counts. Nothing
    is written of a value that is missing, not finite or not positive, of one that the limit on jumps drops, and of a
    poll that is older than one that was taken. Waits for who computes the series, and locks it until the transaction
    ends: where both dominances are taken, BTC.d first.
    """
    if driver not in DOMINANCES:
        raise ValueError(f"{driver} is not polled")
    if value is None or not math.isfinite(value) or value <= 0:
        return False
    await store.locks.market_series(session, _MINUTE, [driver], wait=True)
    start = int(at.timestamp()) // _MINUTE.seconds * _MINUTE.seconds
    bar_start = datetime.fromtimestamp(start, UTC)
    of_policy = fingerprint(Stage.bars, policy)
    newest = await _checkpoint(session, Asked(driver, Stage.bars, of_policy))
    if newest is not None and newest.bar_end > bar_start + _MINUTE.step:
        return False
    base = await _checkpoint(session, Asked(driver, Stage.bars, of_policy, bar_start))
    poll = {driver.value: Bars.of([(start, value, value, value, value, 0.0)])}
    made = minutes(driver, poll, start + _MINUTE.seconds, policy, remembered(base))
    span = Span(driver, bar_start, bar_start + _MINUTE.step)
    written = await store.market.bars.write(session, _MINUTE, [SeriesBars(span, made.bars, "coingecko")])
    if driver in written:
        subjects = [store.market.changes.of_bars(driver, timeframe) for timeframe in Timeframe]
        await store.market.changes.mark(session, dict.fromkeys(subjects, bar_start))
    after = Checkpoint(span.until, made.carry.to_bytes())
    new = NewCheckpoint(driver, Stage.bars, of_policy, base.bar_end if base else None, after)
    await store.market.checkpoints.write(session, _MINUTE, [new])
    await store.market.bars.count(session, {driver: counts(made)})
    return len(made.bars) > 0


def counts(made: Minutes) -> dict[tuple[str, str], int]:
    """How many of a driver's candles were refused, mended or dropped, by asset and kind; those of none are left out."""
    return {
        (asset, kind): bars
        for asset, counters in made.carry.counters.items()
        for kind, bars in vars(counters).items()
        if bars
    }


def remembered(checkpoint: Checkpoint | None) -> MinutesCarry | None:
    """What a checkpoint of minutes remembers; None where there is none, or it is damaged."""
    if checkpoint is None:
        return None
    try:
        return MinutesCarry.from_bytes(checkpoint.carry)
    except ValueError:
        return None


async def _checkpoint(session: AsyncSession, asked: Asked) -> Checkpoint | None:
    found = await store.market.checkpoints.load(session, _MINUTE, [asked])
    return found.get((asked.driver, asked.stage))
