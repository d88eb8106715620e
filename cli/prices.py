"""Prices, by which forecasts are resolved."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, BinaryIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, TextColumn

from closeloop import store
from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, err, fail, out, print_json, run, table
from closeloop.cli.files import FileArgument, open_input
from closeloop.gateways.candles import Candle, NotCandles, RefusedRow, read_candles
from closeloop.models.forecasts import seconds_of
from closeloop.models.values import Identifier

app = typer.Typer(help="Prices, by which forecasts are resolved.", no_args_is_help=True)

STORED_AT_ONCE = 5_000
_PRICING = 1_800
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
    if seconds > _PRICING:
        err.print(f"closeloop: candles of {interval} are stored, but price no forecast: at most 30m do.")
    report = run(_import(open_input(file), asset, seconds))
    if as_json:
        print_json(report)
    else:
        print_counts = f"{report['imported']} candles of {asset} imported, {report['already_recorded']} were on record"
        out.print(print_counts + (f", {len(report['rejected'])} refused" if report["rejected"] else ""))
    for item in report["rejected"][:20]:
        err.print("refused: " + (f"line {item['line']}: " if item["line"] else "") + item["reason"])
    if len(report["rejected"]) > 20:
        err.print(f"refused: {len(report['rejected']) - 20} more lines; --json lists all of them")


async def _import(file: BinaryIO, asset: str, seconds: int) -> dict[str, Any]:
    rows = read_candles(file, seconds, datetime.now(UTC))
    report: dict[str, Any] = {"asset": asset, "interval_seconds": seconds, "rejected": []}
    counts: Counter[str] = Counter()
    differing = 0
    step = timedelta(seconds=seconds)
    with Progress(TextColumn("{task.description}"), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("0 candles")
        async with database() as session:
            try:
                # The whole file at once: half of one would look as if the other half did not exist.
                async with session.begin():
                    while batch := list(islice(rows, STORED_AT_ONCE)):
                        report["rejected"] += [
                            {"line": r.line, "reason": r.reason} for r in batch if isinstance(r, RefusedRow)
                        ]
                        candles = [c for c in batch if isinstance(c, Candle)]
                        added = await store.prices.add(session, [_row(c, asset, seconds, step) for c in candles])
                        counts["imported"] += added.new
                        counts["already_recorded"] += len(candles) - added.new - len(added.differing)
                        report["rejected"] += [
                            {
                                "line": None,
                                "reason": f"the candle that ended {at(end)} UTC is on record with other prices",
                            }
                            for end in added.differing
                        ]
                        differing += len(added.differing)
                        bar.update(task, description=f"{sum(counts.values())} candles")
                    stored = sum(counts.values())
                    if differing > counts["already_recorded"]:
                        fail(
                            f"Nothing was imported: of {stored + differing - counts['imported']} candles that are on "
                            f"record, {differing} have other prices there. Is this {asset}, and the right interval?"
                        )
                    if len(report["rejected"]) - differing > stored:
                        first = report["rejected"][0]
                        fail(
                            f"Nothing was imported: {len(report['rejected'])} of the lines are no such candles. Is the "
                            f"interval right? Line {first['line']}: {first['reason']}"
                        )
            except NotCandles as error:
                read = sum(counts.values()) + len(report["rejected"])
                fail(
                    f"The file holds no candles ({error})"
                    + (f"; nothing of it was stored after {read} rows." if read else ".")
                )
            async with session.begin():
                report["reopened"] = await store.prices.reopen(session, [asset])
    return report | {"imported": counts["imported"], "already_recorded": counts["already_recorded"]}


def _row(candle: Candle, asset: str, seconds: int, step: timedelta) -> dict[str, Any]:
    return {
        "asset": asset,
        "interval_seconds": seconds,
        "ends_at": candle.start + step,
        "open": candle.open,
        "high": candle.high,
        "low": candle.low,
        "close": candle.close,
        "volume": candle.volume,
        "source": "import",
    }


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """What prices are on record."""

    async def load() -> list[dict[str, Any]]:
        async with database() as session:
            return [dict(row) for row in await store.prices.listing(session)]

    rows = run(load())
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No prices yet: 'closeloop prices import FILE --asset ADA/BTC --interval 5m'.")
    shown = table("asset", "interval", "candles", "first ends (UTC)", "last ends (UTC)", "from", numbers=("candles",))
    for r in rows:
        length = f"{r['interval_seconds'] // 60}m"
        shown.add_row(
            r["asset"], length, str(r["candles"]), at(r["first_end"]), at(r["last_end"]), ", ".join(r["sources"])
        )
    return out.print(shown)
