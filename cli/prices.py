"""Prices, by which forecasts are resolved."""

from datetime import UTC, datetime
from typing import Annotated, BinaryIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, TextColumn

from closeloop.cli.connections import database
from closeloop.cli.console import REFUSALS_SHOWN, AsJson, BeforeOption, LastOption, at, err, out, print_json, run, table
from closeloop.cli.files import FileArgument, open_input
from closeloop.gateways.candles import read_candles
from closeloop.models.forecasts import seconds_of
from closeloop.models.prices import PriceImport, PriceSeries
from closeloop.models.values import Identifier
from closeloop.services import prices

app = typer.Typer(help="Prices, by which forecasts are resolved.", no_args_is_help=True)

LONGEST_PRICING_INTERVAL_SECONDS = 1_800
_ASSET = TypeAdapter(Identifier)


def _asset(value: str) -> str:
    try:
        return _ASSET.validate_python(value)
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


@app.command(name="import")
def import_(
    file: FileArgument,
    asset: Annotated[str, typer.Option("--asset", help="The asset, as forecasts name it: ADA/BTC.", callback=_asset)],
    interval: Annotated[str, typer.Option("--interval", help="The candles' length: 5m.", callback=_interval)],
    as_json: AsJson = False,
) -> None:
    """Import candles from a CSV file (also gzipped), with columns date, open, high, low, close and maybe volume.

    A candle that is on record stays as it is. Forecasts that were given up for want of a price are tried again.
    """
    seconds = seconds_of(interval)
    if seconds > LONGEST_PRICING_INTERVAL_SECONDS:
        err.print(f"closeloop: candles of {interval} are stored, but price no forecast: at most 30m do.")
    report = run(_import(open_input(file), asset, seconds))
    if as_json:
        print_json(report)
    else:
        counts = f"{report.imported} candles of {asset} imported, {report.already_recorded} were on record"
        out.print(counts + (f", {len(report.rejected)} refused" if report.rejected else ""))
    for one in report.rejected[:REFUSALS_SHOWN]:
        err.print("refused: " + (f"line {one.line}: " if one.line else "") + one.reason)
    if len(report.rejected) > REFUSALS_SHOWN:
        err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more lines; --json lists all of them")


async def _import(file: BinaryIO, asset: str, seconds: int) -> PriceImport:
    rows = read_candles(file, seconds, datetime.now(UTC))
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
