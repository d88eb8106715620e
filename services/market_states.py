"""The market as an operator is shown it: states as of an instant, and how they have changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_levers import LeversRequest
from closeloop.models.market_views import ChannelView, Scores, StateRun
from closeloop.models.policy import LearningPolicy, LeversPolicy
from closeloop.services import market_levers
from closeloop.store.market import channels, states
from closeloop.store.market.channels import DrawnBar

MAX_RUNS = 10_000
"""Stretches of one state in an answer: the newest."""
MAX_BARS = 100_000
"""Bars of a picture."""
DEFAULT_BARS = 1_000
"""Bars that a history goes back where nobody says from when on."""
LEVERS_DRAWN = 400
_LEVERS_AT_ONCE = 50
_EVER = timedelta(days=73_000)


async def as_of(
    session: AsyncSession,
    instant: datetime,
    policy: LearningPolicy,
    drivers: Sequence[Driver] = tuple(Driver),
    timeframes: Sequence[Timeframe] = tuple(Timeframe),
) -> list[ChannelView]:
    """The state of each of these drivers on each of these timeframes at an instant, of those that have bars.

    It is that of the newest bar with a state that may be used, however old: what levers use (``market_levers.as_of``),
    and ``stale`` what they would if it were not too old. Where there is none yet, the newest bar, warming up.
    """
    ages = market_levers.ages(policy.levers)
    wanted = [(driver, timeframe) for driver in drivers for timeframe in timeframes]
    found = await states.as_of(session, instant, dict.fromkeys(wanted, _EVER))
    shown = {
        (each.driver, each.timeframe): ChannelView(
            **each.model_dump(), warming_up=False, stale=each.bar_end < instant - ages[each.driver, each.timeframe]
        )
        for each in found
    }
    begun = await channels.newest(session, instant, [channel for channel in wanted if channel not in shown])
    for (driver, timeframe), row in begun.items():
        shown[driver, timeframe] = ChannelView(
            driver=driver,
            timeframe=timeframe,
            state=row.state,
            prev_state=row.prev_state,
            flags=row.flags,
            scores=Scores(ts=row.ts, ox=row.ox, dx=row.dx, edx=row.edx),
            bar_end=row.bar_end,
            warming_up=True,
            stale=row.bar_end < instant - ages[driver, timeframe],
            provisional=False,
            bars=row.bars,
            bars_needed=policy.market.published_bars[timeframe],
            revision=row.revision,
            computed_at=row.computed_at,
            known_then=row.computed_at <= instant,
        )
    return [shown[channel] for channel in wanted if channel in shown]


async def history(
    session: AsyncSession,
    until: datetime,
    since: datetime | None = None,
    drivers: Sequence[Driver] = tuple(Driver),
    timeframes: Sequence[Timeframe] = tuple(Timeframe),
    last: int | None = None,
) -> list[StateRun]:
    """Stretches of one state, by their beginning: of bars that ended by ``until`` and after ``since`` (None: the
    DEFAULT_BARS of each timeframe before ``until``), the ``last`` or, at most, the newest MAX_RUNS.

    Raises NotAcceptable where ``since`` is not before ``until``.
    """
    sinces = {timeframe: begin(timeframe, since, until) for timeframe in timeframes}
    return await channels.runs(session, drivers, sinces, until, min(last or MAX_RUNS, MAX_RUNS))


def begin(timeframe: Timeframe, since: datetime | None, until: datetime) -> datetime:
    """From when on a history is shown. Raises NotAcceptable where that is not before its end."""
    if since is not None and since >= until:
        raise NotAcceptable("A history ends after it begins: --since must be before --until.")
    return until - DEFAULT_BARS * timeframe.step if since is None else since


@dataclass(frozen=True)
class Course:
    """What a picture of a driver on a timeframe shows. ``levers``: instant, A, E, of the regime alone."""

    bars: list[DrawnBar]
    levers: list[tuple[datetime, float, float]]


async def course(
    session: AsyncSession,
    driver: Driver,
    timeframe: Timeframe,
    request: LeversRequest,
    since: datetime,
    until: datetime,
    policy: LeversPolicy,
) -> Course:
    """Bars with their states, and A and E of a token as of the ends of LEVERS_DRAWN of them, evenly spread.

    A and E are of states as of each instant, neither of what became known later nor of how the bucket does. Raises
    NotOnRecord where there are no bars, NotAcceptable for more than MAX_BARS and as ``market_levers.as_of`` does.
    """
    market_levers.answer(request, (), policy)  # what cannot be asked is refused before anything is read
    bars = await channels.bars(session, driver, timeframe, since, until, MAX_BARS + 1)
    if not bars:
        raise NotOnRecord(
            f"There are no bars of {driver} {timeframe} in this time: 'closeloop market states' shows what there is."
        )
    if len(bars) > MAX_BARS:
        raise NotAcceptable(f"More than {MAX_BARS:,} bars are no picture: a later --since, or a longer --timeframe.")
    count = min(len(bars), LEVERS_DRAWN)
    places = [round(number * (len(bars) - 1) / max(1, count - 1)) for number in range(count)]
    ends = [datetime.fromtimestamp(bars[place].start, until.tzinfo) + timeframe.step for place in places]
    ages = _of_bucket(market_levers.ages(policy), request.bucket)
    levers = []
    for at in range(0, count, _LEVERS_AT_ONCE):
        instants = ends[at : at + _LEVERS_AT_ONCE]
        for instant, found in zip(instants, await states.as_of_each(session, instants, ages), strict=True):
            answer = market_levers.answer(request, market_levers.channels(found), policy)
            levers.append((instant, answer.A, answer.E))
    return Course(bars, levers)


def _of_bucket(
    ages: Mapping[tuple[Driver, Timeframe], timedelta], bucket: str | None
) -> Mapping[tuple[Driver, Timeframe], timedelta]:
    """The channels that levers of a bucket use: other buckets say nothing to it."""
    used = {Driver.btc, Driver.alt, Driver.btc_d, Driver.usdt_d} | ({Driver(bucket)} if bucket else set())
    return {channel: age for channel, age in ages.items() if channel[0] in used}
