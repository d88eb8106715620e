"""The demo's simulated market: planted turns and the states found, levers for its engine, and a picture."""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import track
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.activities.market_stages import Advance
from closeloop.cli import simulated_market as simulated
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import err, out, settings, table
from closeloop.cli.market_history import draw
from closeloop.learning.market.bars import Bars
from closeloop.models.market import Driver, MarketState, Timeframe, priced_as
from closeloop.models.market_levers import LeversRequest
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.market_views import StateRun
from closeloop.models.positions import ClosedPosition
from closeloop.services import given_levers, market_contexts, market_states, market_tokens
from closeloop.services.positions import close_all
from closeloop.store.market.bars import SeriesBars, Span
from closeloop.store.market.changes import of_bars

DRIVERS = (Driver.btc, Driver.alt, simulated.BUCKET, Driver.btc_d, Driver.usdt_d)
_REQUEST = LeversRequest(bucket=simulated.BUCKET.value, timeframe=simulated.TRADED)
_BATCH_BARS = 5_000
PICTURE = "demo-market.svg"


async def market() -> None:
    """Play the simulated market, show what was found of it, and take it out of the record again."""
    policy = settings().learning_policy()
    majors = [priced_as(name) for name in (Driver.btc.value, *policy.market.alt_components)]
    simulated_only = (simulated.FIRST, simulated.UNTIL, simulated.TOKENS, [*majors, *simulated.TOKENS])
    async with database() as session, session.begin():
        alone = settings().market == "off" and await store.market.simulated.is_alone(session, *simulated_only)
        if alone:  # what a demo left that was killed
            await store.market.simulated.forget(session, *simulated_only)
    if not alone:
        out.print("The record has a market of its own, or will have: the demo simulates none beside it.\n")
        return
    out.print(
        f"A simulated market of {simulated.FIRST:%Y}: BTC, {len(majors) - 1} components of ALT, "
        f"{len(simulated.TOKENS)} tokens of nano, and dominances, over {simulated.HOURS} hours,\n"
        "of each of which the last minute is on record. Planted, to be found: when all of it turns.\n"
        f"(market.flip_atr is {simulated.FLIP_ATR} here: states change less between S1 and S2.)"
    )
    try:
        await _compute(majors, policy.market.model_copy(update={"flip_atr": simulated.FLIP_ATR}))
        async with database() as session:
            runs = await market_states.history(
                session, simulated.UNTIL, simulated.FIRST, DRIVERS, (Timeframe.h1,), last=None
            )
        _show_switches(runs)
        async with temporal() as client:
            await _trade(client)
        await _picture()
    finally:
        async with database() as session, session.begin():
            await store.market.simulated.forget(session, *simulated_only)
    out.print(
        "The simulated market is off the record again, so that a real one never goes on from it; what the closes\n"
        "were filled in with stays.\n"
    )


async def _compute(majors: list[str], policy: MarketPolicy) -> None:
    """Candles, tokens and dominances on record, and states of them by the code that computes them live."""
    err.print("a simulated market", end="\r" if err.is_terminal else "\n")
    rows = list(simulated.candles(majors))
    async with database() as session:
        async with session.begin():
            for start in range(0, len(rows), 5_000):
                await store.prices.add(session, rows[start : start + 5_000])
            await market_tokens.record(session, enumerate(simulated.tokens()))
            await _dominances(session)
        for timeframe in Timeframe:
            more = True
            while more:
                async with session.begin():
                    advance = Advance(session, timeframe, simulated.UNTIL, policy, _BATCH_BARS)
                    _, more = await advance.run(list(Driver))


async def _dominances(session: AsyncSession) -> None:
    polls = {
        driver: Bars.of((start, share, share, share, share, 0.0) for start, share in shares)
        for driver, shares in simulated.dominances().items()
    }
    spans = {driver: Span(driver, simulated.FIRST, simulated.UNTIL) for driver in polls}
    bars = [SeriesBars(spans[driver], polls[driver], "simulated") for driver in polls]
    await store.market.bars.write(session, Timeframe.m1, bars)
    subjects = [of_bars(driver, timeframe) for driver in polls for timeframe in Timeframe]
    await store.market.changes.mark(session, dict.fromkeys(subjects, simulated.FIRST))


def _show_switches(runs: Sequence[StateRun]) -> None:
    """Beside each planted turn, when each driver's state on the hour said so."""
    shown = table("planted", *(f"{driver} 1h" for driver in DRIVERS[:3]))
    turns = simulated.SWITCHES[1:]
    for switch, following in itertools.zip_longest(turns, turns[1:]):
        cells = [_found(runs, driver, switch, following) for driver in DRIVERS[:3]]
        shown.add_row(f"{'up' if switch.up else 'down'} from {switch.at:%m-%d %H:%M} on", *cells)
    out.print(shown)
    out.print(
        "BTC.d and USDT.d fall where the market rises, and weigh against it. A slow average needs its length to turn:\n"
        "states follow the market, they do not foretell it (docs/market.md has what they were worth on real candles)."
    )


def _found(
    runs: Sequence[StateRun], driver: Driver, switch: simulated.Switch, following: simulated.Switch | None
) -> str:
    end = following.at if following else simulated.UNTIL
    first = next(
        (
            max(run.from_ + simulated.HOUR, switch.at)  # a state is known when its bar has ended
            for run in runs
            if run.driver is driver and run.state is switch.state and run.to > switch.at and run.from_ < end
        ),
        None,
    )
    if first is None:
        return f"not found as {switch.state}"
    return f"{switch.state} {(first - switch.at) // simulated.HOUR} h later"


async def _trade(client: Client) -> None:
    """Entries with levers of the record, and their closes, which name them."""
    policy = settings().learning_policy().levers
    closes: dict[int, ClosedPosition] = {}
    async with database() as session, session.begin():
        for number, opened_at in enumerate(
            track(simulated.entries(), "levers", console=err, transient=True, disable=not err.is_terminal)
        ):
            given = await given_levers.give(session, simulated.BOOK, _REQUEST, opened_at, policy)
            closes[number] = simulated.close(number, opened_at, given.levers_id)
    report = await close_all(client, closes)
    closed = {one.outcome.position_id for one in report.closed}
    async with database() as session:
        listed = await market_contexts.listing(session, simulated.BOOK)
    contexts = [one for one in listed if one.position_id in closed]
    for refused in report.rejected[:1]:  # as of a demo of another version in the same home
        err.print(f"closeloop: {len(report.rejected)} closes were refused, the first one: {refused.reason}")
    numbers = ("trades", "A", "E", "position size")
    shown = table("state of nano 1h at entry", *numbers, numbers=numbers)
    for state in MarketState:
        of_state = [one for one in contexts if one.regime_states.get("bucket_meso") == state]
        if of_state:
            a, e = _mean(one.A_value for one in of_state), _mean(one.E_value for one in of_state)
            size = policy.base_size + policy.size_slope * a
            shown.add_row(state.words, str(len(of_state)), f"{a:.2f}", f"{e:.2f}", f"{size:.0%}")
    out.print(
        f"Book {simulated.BOOK}: {len(contexts)} of {len(closes)} closes name the levers that they were opened with "
        "(levers_id), and have states, A and E\nfilled in from that record. What they earned is chance."
    )
    out.print(shown)


def _mean(values: Iterable[float | None]) -> float:
    return statistics.fmean(value or 0.0 for value in values)


async def _picture() -> None:
    policy = settings().learning_policy().levers
    async with database() as session:
        course = await market_states.course(
            session, Driver.btc, Timeframe.h1, _REQUEST, simulated.FIRST, simulated.UNTIL, policy
        )
    home = settings().home
    path = home / PICTURE if home.is_dir() else Path(PICTURE)
    turns = [
        (int(switch.at.timestamp()), "planted: up" if switch.up else "planted: down")
        for switch in simulated.SWITCHES[1:]
    ]
    draw(path, course, Timeframe.h1, "Simulated: BTC 1h; A and E of nano, traded on 1h", turns)
    out.print(f"Price, states, A and E as a picture: {path}", soft_wrap=True)
