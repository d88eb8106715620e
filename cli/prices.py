"""Prices, by which forecasts are resolved."""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from enum import Enum
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, TextColumn

from closeloop.cli.connections import database
from closeloop.cli.console import REFUSALS_SHOWN, AsJson, BeforeOption, LastOption, at, err, out, print_json, run, table
from closeloop.cli.files import FileArgument, open_input
from closeloop.gateways.candles import Candle, RefusedRow, read_candles
from closeloop.models.assets import canonical_asset
from closeloop.models.forecasts import seconds_of
from closeloop.models.prices import PriceImport, PriceSeries
from closeloop.models.values import Identifier
from closeloop.services import prices

app = typer.Typer(help="Prices, by which forecasts are resolved.", no_args_is_help=True)

LONGEST_PRICING_INTERVAL_SECONDS = 1_800
_ASSET = TypeAdapter(Identifier)


def _asset(value: str) -> str:
    try:
        return canonical_asset(_ASSET.validate_python(value))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _interval(value: str) -> str:
    try:
        seconds = seconds_of(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if seconds > 86_400 or 86_400 % seconds:
        raise typer.BadParameter("must divide a day evenly, such as 1m, 5m, 15m, 30m or 1h")
    return value


def _zone(value: str) -> tzinfo:
    try:
        return ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise typer.BadParameter("must be a time zone such as UTC or Europe/Athens") from None


class TimestampsOf(Enum):
    """Which moment of a candle its time is."""

    start = "start"
    end = "end"


@app.command(name="import")
def import_(
    file: FileArgument,
    asset: Annotated[str, typer.Option("--asset", help="The asset, as forecasts name it: ADA/BTC.", callback=_asset)],
    interval: Annotated[str, typer.Option("--interval", help="The candles' length: 5m.", callback=_interval)],
    symbol: Annotated[
        str | None, typer.Option("--symbol", help="Of a file of several symbols, the rows of this one.")
    ] = None,
    timestamps: Annotated[
        TimestampsOf | None,
        typer.Option(
            "--timestamps", help="Which moment of a candle its time is: its start, which is the default, or its end."
        ),
    ] = None,
    timezone: Annotated[
        tzinfo | None,
        typer.Option(
            "--timezone",
            help="Whose times those without an offset are: UTC, Europe/Athens.",
            parser=_zone,
            metavar="ZONE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import candles: CSV (also gzipped or zipped), JSON lists, Feather, as exchanges and engines write them.

    A header such as date,open,high,low,close,volume says what is where; a time is the start of its candle, unless
    --timestamps or the file itself says that it is the end. docs/forecasts.md lists the formats.

    A candle that is on record stays as it is. Forecasts that were given up for want of a price are tried again.
    """
    seconds = seconds_of(interval)
    if seconds > LONGEST_PRICING_INTERVAL_SECONDS:
        err.print(f"closeloop: candles of {interval} are stored, but price no forecast: at most 30m do.")
    source = open_input(file)
    rows = read_candles(
        source,
        seconds,
        datetime.now(UTC),
        asset=asset,
        symbol=symbol,
        timestamps=timestamps.value if timestamps else None,
        timezone=timezone,
    )
    report = run(_import(rows, asset, seconds))
    if as_json:
        print_json(report)
    else:
        counts = f"{report.imported} candles of {asset} imported, {report.already_recorded} were on record"
        out.print(counts + (f", {len(report.rejected)} refused" if report.rejected else ""))
    for one in report.rejected[:REFUSALS_SHOWN]:
        err.print("refused: " + (f"line {one.line}: " if one.line else "") + one.reason)
    if len(report.rejected) > REFUSALS_SHOWN:
        err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more lines; --json lists all of them")


async def _import(rows: Iterator[Candle | RefusedRow], asset: str, seconds: int) -> PriceImport:
    with Progress(TextColumn("{task.description}"), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("0 candles")

        def progress(candles: int) -> None:
            bar.update(task, description=f"{candles} candles")

        async with database() as session:
            return await prices.import_candles(session, asset, seconds, rows, progress)


@app.command(name="list")
def list_(last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """What prices are on record, by asset and interval. --before takes the id that --json shows: ADA/BTC/300."""
    found = run(_list(last, before))
    if as_json:
        return print_json(found)
    if not found:
        return out.print("No prices yet: 'closeloop prices import FILE --asset ADA/BTC --interval 5m'.")
    shown = table("asset", "interval", "candles", "first ends (UTC)", "last ends (UTC)", "from", numbers=("candles",))
    for one in found:
        shown.add_row(
            one.asset, f"{one.interval_seconds // 60}m", str(one.candles), at(one.first_end), at(one.last_end),
            ", ".join(one.sources),
        )  # fmt: skip
    return out.print(shown)


async def _list(last: int | None, before: str | None) -> list[PriceSeries]:
    async with database() as session:
        return await prices.listing(session, last=last, before=before)
