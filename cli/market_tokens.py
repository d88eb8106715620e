"""``market tokens``: which tokens the buckets are made of."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import (
    REFUSALS_SHOWN,
    AsJson,
    BeforeOption,
    LastOption,
    at,
    err,
    fail,
    out,
    print_json,
    run,
    table,
)
from closeloop.cli.files import FileArgument, open_input
from closeloop.cli.instants import instant
from closeloop.gateways.token_rows import NotTokenRows, read_tokens
from closeloop.models.market import BUCKETS, Driver
from closeloop.models.market_tokens import TokensReport, TokenView
from closeloop.services import market_tokens

app = typer.Typer(help="Which tokens the buckets nano, small, mid and big are made of.", no_args_is_help=True)


def _bucket(value: str | None) -> Driver | None:
    if value is None:
        return None
    if value not in BUCKETS:
        raise typer.BadParameter(f"must be one of {', '.join(BUCKETS)}")
    return Driver(value)


BucketOption = Annotated[
    Driver | None,
    typer.Option("--bucket", parser=_bucket, metavar="BUCKET", help="Only this bucket: nano, small, mid or big."),
]


@app.command(name="import")
def import_(file: FileArgument, as_json: AsJson = False) -> None:
    """Say which tokens are in which bucket, and since when: CSV with a header, or JSON objects, also gzipped.

    Columns or fields: asset (as its candles are named: BONK/USDT), bucket, valid_from, valid_to (empty: until further
    notice). An asset is in one bucket at a time: its span ends where its next one begins. The buckets' indices are
    computed anew from the earliest change on.

    Status 1 if any row is refused; the others are recorded. Rows are counted from 0; a header is no row.
    """

    source = open_input(file)

    async def record() -> TokensReport:
        async with database() as session, session.begin():
            return await market_tokens.record(session, read_tokens(source))

    try:
        report = run(record())
    except NotTokenRows as error:
        fail(f"Nothing was recorded: {file} cannot be read: {error}.")
    if as_json:
        print_json(report)
    else:
        out.print(_sentence(report))
        for one in report.rejected[:REFUSALS_SHOWN]:
            err.print(f"refused: row {one.row}: {one.reason}")
        if len(report.rejected) > REFUSALS_SHOWN:
            err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more rows; --json lists all of them")
    if report.rejected:
        raise typer.Exit(1)


def _sentence(report: TokensReport) -> str:
    said = f"{report.recorded} rows recorded, {report.already_recorded} were on record"
    if report.ended:
        said += f"; {report.ended} tokens left a bucket earlier than was on record"
    if report.changed_from is not None:
        said += f". Indices of the buckets are computed anew from {at(report.changed_from)} UTC on"
    return said


@app.command("list")
def list_(
    bucket: BucketOption = None,
    as_of: Annotated[
        datetime | None,
        typer.Option("--as-of", parser=instant, metavar="TIME", help="Only who is in a bucket then. Default: all."),
    ] = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Which tokens are in which bucket, and when, by asset. --before takes the id that --json shows."""

    async def load() -> list[TokenView]:
        async with database() as session:
            return await market_tokens.listing(session, bucket, as_of, last, before)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found:
        which = "No tokens" if bucket is None else f"No tokens of {bucket}"
        when = "" if as_of is None else f" as of {at(as_of)} UTC"
        return out.print(f"{which} on record{when}: 'closeloop market tokens import FILE' says which there are.")
    now = datetime.now(UTC)
    shown = table("asset", "bucket", "from (UTC)", "to (UTC)", "minutes on record until (UTC)", whole=("asset",))
    for one in found:
        end = "until further notice" if one.valid_to is None else at(one.valid_to)
        shown.add_row(one.asset, one.bucket, at(one.valid_from), end, at(one.candles_until))
    out.print(shown)
    held = [one for one in found if one.valid_from <= now and (one.valid_to is None or one.valid_to > now)]
    if silent := sum(one.candles_until is None for one in held):
        out.print(
            f"{silent} of those in a bucket now have no one-minute candles, so that its index does not hear of them: "
            "'closeloop prices import FILE --asset ASSET --interval 1m'.",
            soft_wrap=True,
        )
    return None
