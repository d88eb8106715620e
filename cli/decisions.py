"""Decisions of engines, and what became of the market after them."""

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
    run,
    table,
)
from closeloop.cli.files import FileArgument, json_messages, read_messages
from closeloop.gateways.json_messages import JsonMessages
from closeloop.models.decisions import DecisionMessage, DecisionsAdded, DecisionSource, DecisionView, FillReport
from closeloop.services import decisions

app = typer.Typer(help="Decisions of engines, and what became of the market after them.", no_args_is_help=True)


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record decisions: JSON objects, one a line or in an array, also gzipped. Sent again they are the same.

    Status 1 if any is refused. Rows are counted from 0: row 0 is the first line, or the first element of an array.
    """
    report = run(_add(json_messages(file)))
    if as_json:
        print_json(report)
    else:
        out.print(f"{report.added} decisions recorded, {report.already_recorded} were on record")
    for one in report.rejected[:REFUSALS_SHOWN]:
        err.print(f"refused: row {one.index}: {one.reason}")
    if len(report.rejected) > REFUSALS_SHOWN:
        err.print(f"refused: {len(report.rejected) - REFUSALS_SHOWN} more; --json lists all of them")
    if report.rejected:
        raise typer.Exit(1)


async def _add(messages: JsonMessages) -> DecisionsAdded:
    def given() -> Iterator[tuple[int, DecisionMessage | str]]:
        yield from read_messages(messages, DecisionMessage)

    async with database() as session:
        return await decisions.add(session, given(), datetime.now(UTC))


@app.command()
def fill(as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """Fill in returns, excursions and exits that are due at --as-of; safe to run at any time, also twice at once.

    A return is written once and never changed. What has no price stays pending for 7 days, and is then given up.
    """
    report = run(hinting(_fill(as_of or datetime.now(UTC))))
    if as_json:
        return print_json(report)
    out.print(f"{report.filled} returns of {report.decisions} decisions filled in as of {at(report.as_of)} UTC")
    if report.pending:
        out.print(f"{report.pending} are due and have no price yet: 'closeloop prices import' brings candles in.")
    if report.unresolvable:
        out.print(f"{report.unresolvable} given up: there was no price for 7 days.")
    return None


async def _fill(as_of: datetime) -> FillReport:
    async with temporal() as client:
        return await decisions.fill(client, as_of)


@app.command(name="list")
def list_(
    book: BookOption = None,
    source: Annotated[
        DecisionSource | None, typer.Option("--source", help="Only from here: discovery, thesis or manual.")
    ] = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Decisions with their outcomes, oldest first. An ID is a decision's with --book, else BOOK/ID."""

    async def load() -> list[DecisionView]:
        async with database() as session:
            return await decisions.listing(session, book, source=source, last=last, before=before)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found:
        return out.print("No such decisions. 'closeloop decisions add FILE' records some; engines send them by HTTP.")
    shown = table(
        "made (UTC)", "book", "decision", "symbol", "type", "confidence", "1 d %", "7 d %", "30 d %", "right",
        numbers=("confidence", "1 d %", "7 d %", "30 d %", "right"),
    )  # fmt: skip
    for one in found:
        shown.add_row(
            at(one.decided_at), one.book, one.decision_id, one.symbol, one.decision_type, number(one.confidence, 2),
            number(one.return_1d, 2), number(one.return_7d, 2), number(one.return_30d, 2),
            number(one.thesis_accuracy_score, 0),
        )  # fmt: skip
    return out.print(shown)


@app.command()
def show(
    decision_id: Annotated[str, typer.Argument(metavar="ID|BOOK/ID", help="The decision's id.")],
    book: BookOption = None,
    as_json: AsJson = False,
) -> None:
    """One decision: what was decided, and what became of the market after it."""

    async def load() -> DecisionView:
        async with database() as session:
            return await decisions.show(session, decision_id, book)

    one = run(load())
    if as_json:
        return print_json(one)
    shown = table("", "", title=f"{one.book}/{one.decision_id}")
    made = at(one.decided_at) + ("" if one.timestamp_stated else " (when it arrived)")
    shown.add_row("decided (UTC)", made)
    shown.add_row("what", f"{one.decision_type} {one.symbol}, by {one.decision_source}")
    shown.add_row("confidence", number(one.confidence))
    shown.add_row("regime", one.market_regime or "-")
    returns = [
        f"{number(r, 2)} % after {d} d" for r, d in ((one.return_1d, 1), (one.return_7d, 7), (one.return_30d, 30))
    ]
    shown.add_row("returns of the market", ", ".join(returns))
    extremes = f"{number(one.max_favorable_excursion, 2)} % for, {number(one.max_adverse_excursion, 2)} % against"
    shown.add_row("excursions", f"{extremes} (candles cover {number(one.coverage, 2)} of the time)")
    shown.add_row("volatility", f"{number(one.volatility_realized, 2)} % a day")
    shown.add_row("as at (UTC)", at(one.evaluation_date))
    right = {None: "-", 1.0: "yes", 0.0: "no"}
    shown.add_row("right at 7 d", right.get(one.thesis_accuracy_score, "-"))
    shown.add_row("position", f"closed at {one.exit_price} ({one.exit_reason or '-'})" if one.position_closed else "-")
    if one.unresolvable:
        shown.add_row("given up", ", ".join(one.unresolvable))
    return out.print(shown)
