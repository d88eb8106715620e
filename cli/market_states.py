"""``market states``: what the drivers' states are, and what of that levers use."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, AsOfOption, at, number, out, print_json, run, settings, table
from closeloop.models.market import BUCKETS, DOMINANCES, Driver, Timeframe, priced_as
from closeloop.models.market_views import ChannelView
from closeloop.models.policy import MarketPolicy
from closeloop.services import market_states

DriverOption = Annotated[Driver | None, typer.Option("--driver", help="Only this driver. Default: all.")]
TimeframeOption = Annotated[Timeframe | None, typer.Option("--timeframe", help="Only of this length. Default: all.")]
NOTHING_YET = (
    "'closeloop status' says whether it is collected: CLOSELOOP_MARKET=sources, where the worker runs, collects "
    "it; =recorded computes it from one-minute candles that 'closeloop prices import' brings."
)


def states(
    as_of: AsOfOption = None,
    timeframe: TimeframeOption = None,
    driver: DriverOption = None,
    as_json: AsJson = False,
) -> None:
    """The state of each driver on each timeframe, its flags and scores, and whether levers use it.

    Levers use the newest state that is not too old; a series that is too short is warming up and counts as no data.
    """
    instant = as_of or datetime.now(UTC)
    drivers = tuple(Driver) if driver is None else (driver,)
    timeframes = tuple(Timeframe) if timeframe is None else (timeframe,)
    policy = settings().learning_policy()

    async def load() -> list[ChannelView]:
        async with database() as session:
            return await market_states.as_of(session, instant, policy, drivers, timeframes)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found:
        return out.print(f"No bars of the market as of {at(instant)} UTC. {NOTHING_YET}", soft_wrap=True)
    wanted = [(one, length) for one in drivers for length in timeframes]
    return _print(found, instant, wanted, policy.market)


def _print(
    found: list[ChannelView], instant: datetime, wanted: list[tuple[Driver, Timeframe]], policy: MarketPolicy
) -> None:
    scores = ("TS", "OX", "DX", "EDX")
    shown = table(
        "driver", "timeframe", "state", "flags", *scores, "bar ended (UTC)", "age", "used by levers",
        numbers=(*scores, "age"), whole=("driver", "state", "bar ended (UTC)", "age"),
    )  # fmt: skip
    for one in found:
        values = (one.scores.ts, one.scores.ox, one.scores.dx, one.scores.edx)
        shown.add_row(
            one.driver, one.timeframe, _state(one), ", ".join(one.flags), *(number(value, 2) for value in values),
            at(one.bar_end), age(instant - one.bar_end), _use(one),
        )  # fmt: skip
    out.print(f"The market as of {at(instant)} UTC")
    out.print(shown)
    out.print("TS trend strength, OX overextended, DX deep dip, EDX uptrend exhausted: 0 to 1 (docs/market.md).")
    if old := [f"{one.driver}/{one.timeframe}" for one in found if one.stale]:
        out.print(f"Too old: {', '.join(old)}: 'closeloop status' says what keeps them.", soft_wrap=True)
    have = {(one.driver, one.timeframe) for one in found}
    if none := [channel for channel in wanted if channel not in have]:
        names = ", ".join(f"{one}/{length}" for one, length in none)
        out.print(f"Without a bar, adding nothing to levers: {names}", soft_wrap=True)
    for of in dict.fromkeys(_made_of(one, policy) for one in Driver if all((one, t) in none for t in Timeframe)):
        out.print(f"  {of}", soft_wrap=True)


def _made_of(driver: Driver, policy: MarketPolicy) -> str:
    """What a driver without any bar waits for."""
    if driver in DOMINANCES:
        return "BTC.d and USDT.d are polled from CoinGecko: CLOSELOOP_MARKET=sources"
    if driver in BUCKETS:
        return "a bucket is made of one-minute candles of its tokens: closeloop market tokens import"
    of = [priced_as(name) for name in (policy.alt_components if driver is Driver.alt else (driver,))]
    least = f", at least {policy.min_components} of them" if driver is Driver.alt else ""
    return f"{driver} is made of one-minute candles of {', '.join(of)}{least}: closeloop prices import"


def _state(one: ChannelView) -> str:
    if one.state is None:
        return "none yet"
    before = one.prev_state
    return one.state.words + ("" if before in (None, one.state) else f", {before} before")


def _use(one: ChannelView) -> str:
    if one.warming_up:
        return f"no: warming up, bar {one.bars} of {one.bars_needed}"
    said = "no: too old" if one.stale else "yes"
    notes = (["short series"] if one.provisional else []) + ([] if one.known_then else ["computed later"])
    return said + (f" ({', '.join(notes)})" if notes else "")


def age(passed: timedelta) -> str:
    """How long ago, as a person says it.

    >>> [age(timedelta(minutes=m)) for m in (0.5, 7, 65, 60 * 49)]
    ['30 s', '7 min', '1 h 05', '2 d 01 h']
    """
    seconds = int(passed.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3_600:
        return f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3_600} h {seconds % 3_600 // 60:02}"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3_600:02} h"
