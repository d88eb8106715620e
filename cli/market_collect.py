"""``market collect``: what the sources have is collected now, and bars and states are brought up to it."""

from typing import Annotated

import typer
from rich.status import Status

from closeloop.cli.connections import temporal
from closeloop.cli.console import AsJson, at, err, hinting, out, print_json, run, table
from closeloop.models.market import Timeframe
from closeloop.models.market_runs import MarketReport, MarketRequest
from closeloop.models.market_sources import CANDLES
from closeloop.services import market_runs

TimeframeOption = Annotated[
    Timeframe, typer.Option("--timeframe", help="Minutes, or the hours or days that are made of them.")
]


def collect(timeframe: TimeframeOption = Timeframe.m1, as_json: AsJson = False) -> None:
    """Ask the market's sources for what is due, and bring bars and states up to now. Exit status 1 if something failed.

    The schedules do it each minute, hour and day. Where the workers' CLOSELOOP_MARKET is not 'sources', nobody is
    asked: states are made from what is on record.
    """
    report = run(hinting(_collect(timeframe)))
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.failures:
        raise typer.Exit(1)


def _print(report: MarketReport) -> None:
    out.print(report.asked, soft_wrap=True)
    if report.sources:
        shown = table("source", "new candles", "on record until (UTC)", numbers=("new candles",), whole=("source",))
        for one in report.sources:
            new = f"{report.candles.get(one.source, 0):,}" if one.source.startswith(CANDLES) else "-"
            shown.add_row(one.source, new, at(one.collected_until or one.updated_at))
        out.print(shown)
    _print_series(report)
    if report.unpolled:
        out.print(report.unpolled.sentence, soft_wrap=True)
    for name, reason in report.failures.items():
        out.print(f"failed: {reason if name in reason else f'{name}: {reason}'}", soft_wrap=True)


def _print_series(report: MarketReport) -> None:
    counted = ("new bars", "new states", "changed")
    shown = table("driver", "timeframe", *counted, "state", "at (UTC)", numbers=counted)
    for of in report.timeframes:
        for each in of.series:
            if each.bar_end is not None or each.bars:
                state = "-" if each.state is None else f"{each.state}" + ("" if each.published else " (warming up)")
                changed = each.bars_changed + each.states_changed
                counts = (f"{count:,}" for count in (each.bars, each.states, changed))
                shown.add_row(each.driver, of.timeframe, *counts, state, at(each.bar_end))
    if shown.row_count:
        out.print(shown)
    else:
        out.print("No driver has a bar: there are no candles of its components, and no polls, on record.")


async def _collect(timeframe: Timeframe) -> MarketReport:
    async with temporal() as client:
        with err.status("collecting") as shown:
            return await market_runs.collect(client, MarketRequest(timeframe=timeframe), _teller(shown))


def _teller(shown: Status) -> market_runs.Told:
    def tell(report: MarketReport) -> None:
        candles = sum(report.candles.values())
        bars = sum(one.bars for of in report.timeframes for one in of.series)
        shown.update(f"collecting: {candles:,} new candles, {bars:,} new bars")

    return tell
