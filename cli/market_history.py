"""``market history``: how states have changed, as a table and as a picture."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, err, fail, out, print_json, run, settings, table
from closeloop.cli.instants import instant
from closeloop.cli.market_states import NOTHING_YET, DriverOption, TimeframeOption
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_levers import LeversRequest
from closeloop.models.market_views import StateRun
from closeloop.services import market_states
from closeloop.services.market_states import Course

LastOption = Annotated[int | None, typer.Option("--last", min=1, help="Only the N that began last.")]


def history(
    driver: DriverOption = None,
    timeframe: TimeframeOption = None,
    bucket: Annotated[str | None, typer.Option("--bucket", help="Whose A and E --plot draws. Default: none's.")] = None,
    traded: Annotated[
        str | None,
        typer.Option("--traded", help="The traded timeframe of A and E. Default: that of the states."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=instant, metavar="TIME", help="Default: 1,000 bars before --until."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", parser=instant, metavar="TIME", help="Default: now.")
    ] = None,
    last: LastOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.svg", help="Draw price, states, and A and E (of one driver, one timeframe)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How states changed: each stretch of one state, from when until when, its flags, and how often it was recomputed.

    At most the 10,000 that began last: --until with the first one's beginning shows what came before. A and E in the
    picture are of the market alone, without intent or the bucket's rank and slope, from states as of each instant.
    """
    end = until or datetime.now(UTC)
    drivers = tuple(Driver) if driver is None else (driver,)
    timeframes = tuple(Timeframe) if timeframe is None else (timeframe,)
    if plot is not None and (driver is None or timeframe is None):
        raise typer.BadParameter("is of one --driver and one --timeframe", param_hint="--plot")
    for option, value in (("--bucket", bucket), ("--traded", traded)):
        if value is not None and plot is None:
            raise typer.BadParameter("goes with --plot", param_hint=option)
    policy = settings().learning_policy().levers

    async def load() -> tuple[list[StateRun], Course | None]:
        async with database() as session:
            runs = await market_states.history(session, end, since, drivers, timeframes, last)
            if plot is None or driver is None or timeframe is None:
                return runs, None
            request = LeversRequest(bucket=bucket, timeframe=traded or timeframe)
            begin = market_states.begin(timeframe, since, end)
            return runs, await market_states.course(session, driver, timeframe, request, begin, end, policy)

    found, course = run(load())
    if course is not None and plot is not None and timeframe is not None:
        of = "no bucket" if bucket is None else bucket
        draw(plot, course, timeframe, f"{driver} {timeframe}; A and E of {of}, traded on {traded or timeframe}")
    if last is None and len(found) == market_states.MAX_RUNS:
        err.print(f"closeloop: these are the {len(found):,} that began last: --until shows what came before.")
    if as_json:
        return print_json(found)
    if not found:
        return out.print(f"No states from then until {at(end)} UTC. {NOTHING_YET}", soft_wrap=True)
    shown = table(
        "driver", "timeframe", "from (UTC)", "to (UTC)", "bars", "state", "before", "flags, by number of bars",
        "recomputed", numbers=("bars", "recomputed"), whole=("driver", "from (UTC)", "to (UTC)", "state"),
    )  # fmt: skip
    for one in found:
        before = "the same" if one.began_earlier else one.prev_state or "none"
        flags = ", ".join(f"{flag} {count}" for flag, count in one.flags.items())
        used = "" if one.published else " (not used)"
        shown.add_row(
            one.driver, one.timeframe, at(one.from_), at(one.to), str(one.bars), one.state.words + used, before, flags,
            str(one.revision) if one.revision else "",
        )  # fmt: skip
    return out.print(shown)


def draw(path: Path, course: Course, timeframe: Timeframe, title: str, marks: Sequence[tuple[int, str]] = ()) -> None:
    """Draw price, states, and A and E; leaves with a sentence where the file cannot be written."""
    import numpy as np

    from closeloop.cli import market_picture
    from closeloop.learning.market.engine import STATES

    numbers = {state.value: place for place, state in enumerate(STATES)}
    bars = course.bars
    used_from = next((bar.start for bar in bars if bar.published), None)
    instants, a, e = zip(*course.levers, strict=True)
    picture = market_picture.MarketPicture(
        title,
        timeframe.seconds,
        np.array([bar.start for bar in bars]),
        np.array([bar.close for bar in bars]),
        np.array([-1 if bar.state is None else numbers[bar.state] for bar in bars]),
        used_from,
        (np.array([int(each.timestamp()) for each in instants]), np.array(a), np.array(e)),
        marks,
    )
    try:
        market_picture.draw(path, picture)
    except (OSError, ValueError) as error:
        fail(f"{path} was not written: {error}")
