"""Prices, by which forecasts are resolved."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import Progress, TextColumn

from closeloop.cli.candle_options import SymbolOption, TimestampsOption, TimezoneOption
from closeloop.cli.candle_options import interval as interval_of
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    REFUSALS_SHOWN,
    AsJson,
    BeforeOption,
    LastOption,
    at,
    err,
    fail,
    hinting,
    out,
    print_json,
    run,
    settings,
    table,
)
from closeloop.cli.files import FileArgument, open_input, written_at
from closeloop.cli.instants import instant
from closeloop.gateways.candles import Candle, NotCandles, RefusedRow, on_disk, read_candles
from closeloop.models.assets import canonical_asset
from closeloop.models.forecasts import ResolutionReport, seconds_of
from closeloop.models.prices import (
    AffectedOutcome,
    OutcomesRecomputed,
    PriceImport,
    PricesDeleted,
    PriceSeries,
    SourceFailure,
)
from closeloop.models.values import Identifier
from closeloop.services import forecasts, outcome_corrections, prices
from closeloop.services.prices import PriceFile

app = typer.Typer(help="Prices, by which forecasts are resolved.", no_args_is_help=True)

LONGEST_PRICING_INTERVAL_SECONDS = 1_800
_ASSET = TypeAdapter(Identifier)


def _asset(value: str) -> str:
    try:
        return canonical_asset(_ASSET.validate_python(value))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _one_asset(value: str | None) -> str | None:
    return None if value is None else _asset(value)


@app.command(name="import")
def import_(
    file: FileArgument,
    asset: Annotated[str, typer.Option("--asset", help="The asset, as forecasts name it: ADA/BTC.", callback=_asset)],
    interval: Annotated[str, typer.Option("--interval", help="The candles' length: 5m.", callback=interval_of)],
    symbol: SymbolOption = None,
    timestamps: TimestampsOption = None,
    timezone: TimezoneOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the file's prices also where others are on record.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import candles: CSV (also gzipped or zipped), JSON lists, Feather, as exchanges and engines write them.

    A header such as date,open,high,low,close,volume says what is where; a time is the start of its candle, unless
    --timestamps or the file itself says that it is the end. docs/forecasts.md lists the formats.

    A candle that is on record stays as it is, unless --replace is given. The last candle may still have been going on
    when the file was written (its modification time): no forecast is resolved by it until an export holds it whole.
    Forecasts that were given up for want of a price are tried again.
    """
    seconds = seconds_of(interval)
    if seconds > LONGEST_PRICING_INTERVAL_SECONDS:
        err.print(f"closeloop: candles of {interval} are stored, but price no forecast: at most 30m do.")
    source = open_input(file)
    written = written_at(source)
    try:
        whole = on_disk(source)
    except NotCandles as error:
        fail(f"Nothing of the file was stored: {error}.")
    rows = read_candles(
        whole,
        seconds,
        datetime.now(UTC),
        asset=asset,
        symbol=symbol,
        timestamps=timestamps.value if timestamps else None,
        timezone=timezone,
        tell=lambda sentence: err.print(f"closeloop: {sentence}."),
    )
    report = run(_import(rows, asset, seconds, PriceFile(file, written, replace)))
    if as_json:
        print_json(report)
    else:
        counts = f"{report.imported} candles of {asset} imported, {report.already_recorded} were on record"
        counts += f", {report.replaced} replaced" if report.replaced else ""
        out.print(counts + (f", {len(report.rejected)} refused" if report.rejected else ""))
    if report.provisional:
        err.print(
            f"closeloop: the candle that ends {at(report.provisional)} UTC may have been going on when the file was "
            "written: it prices nothing until an export holds it and a later one."
        )
    _tell_affected(report.affected)
    for one in report.rejected[:REFUSALS_SHOWN]:
        err.print("refused: " + (f"line {one.line}: " if one.line else "") + one.reason)
    if len(report.rejected) > REFUSALS_SHOWN:
        err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more lines; --json lists all of them")


def _tell_affected(count: int) -> None:
    if count:
        err.print(
            f"closeloop: {count} outcomes were computed from these candles and stand as they were: 'closeloop prices "
            "affected' lists them, 'closeloop prices recompute' computes them again."
        )


async def _import(rows: Iterator[Candle | RefusedRow], asset: str, seconds: int, what: PriceFile) -> PriceImport:
    with Progress(TextColumn("{task.description}"), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("0 candles")

        def progress(candles: int) -> None:
            bar.update(task, description=f"{candles} candles")

        async with database() as session:
            return await prices.import_candles(session, asset, seconds, rows, progress, what)


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


OneAsset = Annotated[str | None, typer.Option("--asset", help="Only this asset. Default: all.", callback=_one_asset)]


@app.command()
def delete(
    asset: Annotated[str, typer.Option("--asset", help="The asset.", callback=_asset)],
    from_: Annotated[
        datetime, typer.Option("--from", parser=instant, metavar="TIME", help="Candles that begin then or later.")
    ],
    to: Annotated[datetime, typer.Option("--to", parser=instant, metavar="TIME", help="And end then or earlier.")],
    interval: Annotated[
        str | None, typer.Option("--interval", help="Only candles of this length. Default: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the candles of a time, as after a wrong import. Outcomes computed from them are listed, not changed."""
    seconds = None if interval is None else seconds_of(interval_of(interval))
    if not yes:
        of = f"{interval} candles" if interval else "candles"
        typer.confirm(f"Delete the {of} of {asset} from {at(from_)} to {at(to)} UTC?", abort=True, err=True)
    report = run(_delete(asset, from_, to, seconds))
    if as_json:
        print_json(report)
    else:
        out.print(f"{report.deleted} candles of {asset} deleted")
    _tell_affected(report.affected)


async def _delete(asset: str, from_: datetime, to: datetime, seconds: int | None) -> PricesDeleted:
    async with database() as session:
        return await prices.delete(session, asset, from_, to, interval_seconds=seconds)


@app.command()
def affected(
    asset: OneAsset = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """Outcomes that were computed from candles which were replaced or deleted since. --before takes BOOK/ID."""
    found = run(_affected(asset, last, before))
    if as_json:
        return print_json(found)
    if not found:
        return out.print("No outcome was computed from a candle that was replaced or deleted since.")
    shown = table("book", "forecast", "asset", "until (UTC)", "return %", "why", numbers=("return %",))
    for one in found:
        shown.add_row(one.book, one.forecast_id, one.asset, at(one.target_at), f"{one.return_pct:+.3f}", one.reason)
    return out.print(shown)


async def _affected(asset: str | None, last: int | None, before: str | None) -> list[AffectedOutcome]:
    async with database() as session:
        return await outcome_corrections.affected(session, asset=asset, last=last, before=before)


@app.command()
def recompute(asset: OneAsset = None, as_json: AsJson = False) -> None:
    """Compute affected outcomes again from the prices on record now, and what producers are worth by them.

    An event keeps each old value. An outcome without a price any more is withdrawn: its forecast waits for one.
    """
    done, until = run(_recompute(asset))
    report = run(hinting(_resolve(until))) if until else None
    if as_json:
        print_json(done)
    else:
        out.print(f"{done.corrected} outcomes corrected, {done.unchanged} unchanged, {done.withdrawn} withdrawn")
    for book, reason in report.failed.items() if report else ():
        err.print(f"book {book}: what its producers are worth is not up to date: {reason}")


async def _recompute(asset: str | None) -> tuple[OutcomesRecomputed, datetime | None]:
    policy, now = settings().learning_policy(), datetime.now(UTC)
    async with database() as session:
        done = await outcome_corrections.recompute(session, policy, now, asset=asset)
        return done, await outcome_corrections.to_be_learned_until(session, now)


async def _resolve(as_of: datetime) -> ResolutionReport:
    async with temporal() as client:
        return await forecasts.resolve(client, as_of)


@app.command()
def failing(last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """Assets for which the price source gave nothing, why, and when it is asked again. --before takes an asset."""
    found = run(_failing(last, before))
    if as_json:
        return print_json(found)
    if not found:
        return out.print("The price source answered for every asset that it was asked for.")
    shown = table("asset", "failures", "why", "asked (UTC)", "again (UTC)", numbers=("failures",))
    for one in found:
        shown.add_row(one.asset, str(one.failures), one.reason, at(one.asked_at), at(one.next_attempt_at))
    return out.print(shown)


async def _failing(last: int | None, before: str | None) -> list[SourceFailure]:
    async with database() as session:
        return await prices.failing(session, last=last, before=before)
