"""``market replay``: the engine over a file of candles."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from closeloop.cli.candle_options import SymbolOption, TimestampsOption, TimezoneOption
from closeloop.cli.candle_options import interval as interval_of
from closeloop.cli.console import (
    REFUSALS_SHOWN,
    AsJson,
    LastOption,
    at,
    err,
    fail,
    out,
    print_json_list,
    run,
    settings,
    table,
)  # fmt: skip
from closeloop.cli.files import FileArgument, open_input, written_at
from closeloop.gateways.candles import NotCandles, on_disk, read_candles
from closeloop.learning.market.engine import Rows, named
from closeloop.models.forecasts import seconds_of
from closeloop.models.market import Driver, Timeframe
from closeloop.services.market_replay import Replayed
from closeloop.services.market_replay import as_json as documents
from closeloop.services.market_replay import replay as replayed_candles


def _interval(value: str | None) -> str | None:
    return None if value is None else interval_of(value)


def replay(
    file: FileArgument,
    driver: Annotated[Driver, typer.Option("--driver", help="Whose prices they are.")],
    timeframe: Annotated[Timeframe, typer.Option("--timeframe", help="Of the bars that the engine is given.")],
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval",
            help="The candles' length, if shorter than the timeframe: they are rolled up. Default: the timeframe.",
            callback=_interval,
        ),
    ] = None,
    symbol: SymbolOption = None,
    timestamps: TimestampsOption = None,
    timezone: TimezoneOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw price and states into this file.")
    ] = None,
    last: LastOption = None,
    as_json: AsJson = False,
) -> None:
    """Run the engine over a file of candles: its states, flags, scores and indicators, bar by bar.

    The code that runs live, without a stack. Formats as of prices import. --json has a document for each bar, else a
    line for each stretch of one state is printed.
    """
    seconds = seconds_of(interval) if interval else timeframe.seconds
    if seconds > timeframe.seconds or timeframe.seconds % seconds:
        raise typer.BadParameter(f"must divide {timeframe} evenly", param_hint="--interval")
    source = open_input(file)
    now = datetime.now(UTC)
    as_of = min(now, written_at(source) or now)  # a candle that was going on when the file was written is not whole
    try:
        candles = read_candles(
            on_disk(source), seconds, now, asset=None, symbol=symbol, written=True,
            timestamps=timestamps.value if timestamps else None, timezone=timezone,
            tell=lambda sentence: err.print(f"closeloop: {sentence}."),
        )  # fmt: skip
        found = replayed_candles(candles, seconds, driver, timeframe, as_of, settings().learning_policy().market)
    except NotCandles as error:
        fail(f"Nothing was computed: {error}.")
    _tell_refused(found)
    if found.rows is None:
        fail("The file has no bar that could be used.")
    if plot is not None:
        _draw(plot, found, found.rows, f"{driver} {timeframe}")
    if as_json:
        return run(print_json_list(_each(found, last)))
    return _print(found.rows, driver, timeframe, last)


async def _each(found: Replayed, last: int | None) -> AsyncIterator[dict[str, Any]]:
    skipped = 0 if last is None else len(found.bars) - last
    for place, document in enumerate(documents(found)):
        if place >= skipped:
            yield document


def _tell_refused(found: Replayed) -> None:
    for one in found.unreadable[:REFUSALS_SHOWN]:
        err.print(f"refused: line {one.line}: {one.reason}")
    if len(found.unreadable) > REFUSALS_SHOWN:
        err.print(f"refused: {len(found.unreadable) - REFUSALS_SHOWN} more lines")
    if counts := [f"{count} {_OF[name]}" for name, count in asdict(found.counters).items() if count]:
        err.print(f"closeloop: of the candles, {', '.join(counts)}.")


_OF = {
    "off_grid": "refused: their time is no multiple of their length",
    "unfinished": "refused: not ended when the file was written",
    "not_positive": "refused: a price is not positive",
    "high_below_low": "refused: the high is below the low",
    "repaired": "repaired: open or close outside high and low, or a bad volume",
    "duplicates": "replaced by a later line of the same time",
    "spikes": "dropped as spikes",
    "wicks": "with wicks cut",
}


def _draw(path: Path, found: Replayed, rows: Rows, title: str) -> None:
    from closeloop.cli.market_picture import MarketPicture, draw

    published = np.flatnonzero(rows.published)
    used_from = int(rows.start[published[0]]) if len(published) else None
    try:
        draw(path, MarketPicture(title, found.timeframe.seconds, rows.start, found.bars.close, rows.state, used_from))
    except (OSError, ValueError) as error:
        fail(f"{path} was not written: {error}")


def _print(rows: Rows, driver: Driver, timeframe: Timeframe, last: int | None) -> None:
    counted = Counter(rows.state.tolist())
    changes = int(np.count_nonzero((rows.state != rows.prev_state) & (rows.prev_state >= 0)))
    shares = ", ".join(
        f"{named(state) or 'none yet'} {count / len(rows):.1%}" for state, count in sorted(counted.items())
    )
    out.print(f"{len(rows):,} bars of {driver} {timeframe}: {shares}; {changes:,} changes")
    begins = np.flatnonzero(np.append(True, rows.state[1:] != rows.state[:-1])).tolist()
    ends = [*begins[1:], len(rows)]
    shown = table("from (UTC)", "to (UTC)", "bars", "state", "flags, by number of bars", numbers=("bars",))
    for begin, end in list(zip(begins, ends, strict=True))[-last if last else None :]:
        flags = {flag: int(values[begin:end].sum()) for flag, values in rows.flags.items()}
        shown.add_row(
            _at(rows.start[begin]),
            _at(rows.start[end - 1] + timeframe.seconds),
            str(end - begin),
            named(int(rows.state[begin])) or "none yet",
            ", ".join(f"{flag} {count}" for flag, count in flags.items() if count),
        )
    out.print(shown)


def _at(seconds: int) -> str:
    return at(datetime.fromtimestamp(int(seconds), UTC))
