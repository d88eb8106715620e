"""Forecasts: what producers say, and how it turned out."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    REFUSALS_SHOWN,
    AsJson,
    AsOfOption,
    BeforeOption,
    BookOption,
    LastOption,
    at,
    err,
    hinting,
    number,
    out,
    print_json,
    print_json_list,
    run,
    table,
)
from closeloop.cli.files import FileArgument, json_messages, read_messages
from closeloop.gateways.json_messages import JsonMessages
from closeloop.models.forecasts import (
    Forecast,
    ForecastDetails,
    ForecastsAdded,
    ForecastState,
    ResolutionReport,
    UnacceptableForecast,
)
from closeloop.services import forecasts

app = typer.Typer(help="Forecasts: what producers say, and how it turned out.", no_args_is_help=True)

Producer = Annotated[str | None, typer.Option("--producer", help="Only this producer. Default: all.")]


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record forecasts: JSON objects, one a line or in an array, also gzipped. Sent again they are the same.

    Status 1 if any is refused; one issued more than 5 minutes in the future is. Rows are counted from 0: row 0 is the
    first line, or the first element of an array.
    """
    report = run(_add(json_messages(file)))
    if as_json:
        print_json(report)
    else:
        out.print(f"{report.added} forecasts recorded, {report.already_recorded} were on record")
    for one in report.rejected[:REFUSALS_SHOWN]:
        err.print(f"refused: row {one.index}: {one.reason}")
    if len(report.rejected) > REFUSALS_SHOWN:
        err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more; --json lists all of them")
    if report.rejected:
        raise typer.Exit(1)


async def _add(messages: JsonMessages) -> ForecastsAdded:
    async with database() as session:
        return await forecasts.add(session, _given(messages), datetime.now(UTC))


def _given(messages: JsonMessages) -> Iterator[tuple[int, Forecast | UnacceptableForecast]]:
    for index, message in read_messages(messages, Forecast):
        yield index, UnacceptableForecast(index=index, reason=message) if isinstance(message, str) else message


@app.command()
def resolve(as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """Resolve every forecast that is due at --as-of; safe to run at any time, also twice at once.

    Prices that are not on record are asked of the price source; what has no price stays pending with its reason.
    """
    report = run(hinting(_resolve(as_of or datetime.now(UTC))))
    if as_json:
        return print_json(report)
    out.print(
        f"{report.resolved} resolved as of {at(report.as_of)} UTC"
        + (f", {report.abstained} abstentions" if report.abstained else "")
        + (f", {report.candles_fetched} candles fetched" if report.candles_fetched else "")
    )
    if report.unresolvable:
        out.print(f"{report.unresolvable} given up: 'closeloop forecasts list --state unresolvable' shows them.")
    if report.pending:
        out.print(f"{report.pending} are due and have no outcome yet:")
        for reason, count in report.reasons.items():
            out.print(f"  {count} x {reason}")
    for book, reason in report.failed.items():
        err.print(f"book {book}: what its producers are worth is not up to date: {reason}")
    return None


async def _resolve(as_of: datetime) -> ResolutionReport:
    async with temporal() as client:
        return await forecasts.resolve(client, as_of)


@app.command(name="list")
def list_(
    book: BookOption = None,
    producer: Producer = None,
    state: Annotated[ForecastState | None, typer.Option("--state", help="Only in this state. Default: all.")] = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Forecasts with their state; pending and unresolvable ones with their reason."""
    run(_list(book, producer, state, last, before, as_json))


async def _list(
    book: str | None,
    producer: str | None,
    state: ForecastState | None,
    last: int | None,
    before: str | None,
    as_json: bool,
) -> None:
    async with database() as session:
        views = forecasts.listing(session, book, producer=producer, state=state, last=last, before=before)
        if as_json:
            return await print_json_list(views)
        shown = table(
            "book", "forecast", "producer", "asset", "horizon", "action", "confidence", "issued (UTC)", "state"
        )
        async for v in views:
            reason = f": {v.reason}" if v.reason else ""
            shown.add_row(
                v.book, v.forecast_id, v.producer_id, v.asset, v.horizon, v.action, number(v.confidence),
                at(v.issued_at), v.state + reason,
            )  # fmt: skip
    if not shown.row_count:
        return out.print("No such forecasts. 'closeloop forecasts add FILE' records some.")
    return out.print(shown)


@app.command()
def show(
    forecast_id: Annotated[str, typer.Argument(metavar="ID|BOOK/ID", help="The forecast's id.")],
    book: BookOption = None,
    as_json: AsJson = False,
) -> None:
    """One forecast: what was said, how it turned out, or why it has no outcome yet."""
    found = run(_show(book, forecast_id))
    if as_json:
        return print_json(found)
    confidence = "" if found.confidence is None else f" at {found.confidence:.1%}"
    out.print(f"{found.book}/{found.forecast_id}: {found.producer_id} said {found.asset} {found.action}{confidence}")
    out.print(f"  issued {at(found.issued_at)} UTC, over {found.horizon}: until {at(found.target_at)} UTC")
    if (found.asset_sent, found.horizon_sent) != (found.asset, found.horizon):
        out.print(f"  sent as {found.asset_sent} over {found.horizon_sent}")
    if outcome := found.outcome:
        out.print(
            f"  {'right' if outcome.direction_correct else 'wrong'}: {outcome.price_at_issue:f} to "
            f"{outcome.price_at_target:f}, {outcome.return_pct:+.3f} %; Brier {outcome.brier_score:.3f}"
        )
        for when, ends_at, seconds, source in (
            ("issue", outcome.issue_candle_ends_at, outcome.issue_candle_seconds, outcome.issue_price_source),
            ("target", outcome.target_candle_ends_at, outcome.target_candle_seconds, outcome.target_price_source),
        ):
            if ends_at and seconds:
                out.print(f"  price at {when}: the {seconds // 60}m candle that ended {at(ends_at)} UTC, from {source}")
        return out.print(f"  resolved {at(outcome.resolved_at)} UTC by {outcome.resolved_by}")
    reason = found.reason or found.abstention_reason
    out.print(f"  {found.state}" + (f": {reason}" if reason else ""))
    if found.next_attempt_at:
        out.print(f"  next attempt after {at(found.next_attempt_at)} UTC")
    return None


async def _show(book: str | None, forecast_id: str) -> ForecastDetails:
    async with database() as session:
        return await forecasts.show(session, forecast_id, book)


@app.command()
def outcomes(
    book: BookOption = None,
    producer: Producer = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """How forecasts turned out, in the order of their targets."""
    run(_outcomes(book, producer, last, before, as_json))


async def _outcomes(
    book: str | None, producer: str | None, last: int | None, before: str | None, as_json: bool
) -> None:
    async with database() as session:
        views = forecasts.outcomes(session, book, producer=producer, last=last, before=before)
        if as_json:
            return await print_json_list(views)
        shown = table(
            "book", "forecast", "producer", "asset", "horizon", "action", "confidence", "until (UTC)", "return %",
            "right", "Brier", numbers=("confidence", "return %", "Brier"),
        )  # fmt: skip
        async for v in views:
            shown.add_row(
                v.book, v.forecast_id, v.producer_id, v.asset, v.horizon, v.action, number(v.confidence),
                at(v.target_at), f"{v.return_pct:+.3f}", "yes" if v.direction_correct else "no", number(v.brier_score),
            )  # fmt: skip
    if not shown.row_count:
        return out.print("No outcomes yet: 'closeloop forecasts resolve' resolves what is due.")
    return out.print(shown)
