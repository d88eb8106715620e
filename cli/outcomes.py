"""What became of closed positions."""

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    Book,
    BookOption,
    LastOption,
    at,
    number,
    out,
    print_json,
    print_json_list,
    run,
    table,
)
from closeloop.models.positions import OutcomesSummary
from closeloop.models.sentences import signed
from closeloop.services import outcomes

app = typer.Typer(help="Outcomes of closed positions.")


@app.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    book: BookOption = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """List the outcomes, oldest first. An ID is a position's with --book, else BOOK/POSITION."""
    if context.invoked_subcommand is None:
        run(_list(book, last, before, as_json))


async def _list(book: str | None, last: int | None, before: str | None, as_json: bool) -> None:
    async with database() as session:
        found = outcomes.listing(session, book, last=last, before=before)
        if as_json:
            await print_json_list(found)
            return
        shown = table(
            "closed (UTC)",
            "book",
            "position",
            "symbol",
            "side",
            "PnL",
            "R",
            "hours",
            "regime",
            "producers",
            numbers=("PnL", "R", "hours"),
        )
        count = 0
        async for o in found:
            count += 1
            shown.add_row(
                *(at(o.closed_at), o.book, o.position_id, o.symbol, str(o.direction), signed(o.realized_pnl)),
                *(
                    number(o.rr, 2),
                    number(o.time_held_hours, 1),
                    o.regime_at_entry or "-",
                    ", ".join(o.producers) or "-",
                ),
            )
        if count == 0:
            nothing = "No outcomes here." if book or before else "No outcomes yet."
            out.print(f"{nothing} 'closeloop import --help' brings some in; 'closeloop demo' simulates some.")
        else:
            out.print(shown)


@app.command()
def summary(
    book: Book,
    as_json: AsJson = False,
) -> None:
    """Count, hit rate with its 95 % interval, PnL and R of a book."""
    report = run(_summary(book))
    if as_json:
        return print_json(report)
    if report.hit_rate is None:
        return out.print(f"Book {book} has no outcomes yet.")
    shown = table("", "", title=f"Book {book}")
    shown.add_row("closed positions", str(report.count))
    interval = f"95 % interval {report.hit_rate_low:.1%} to {report.hit_rate_high:.1%}"
    shown.add_row("hit rate", f"{report.hit_rate:.1%} ({interval})")
    shown.add_row("realised PnL", f"{signed(report.realized_pnl)} {report.currency or ''}".rstrip())
    shown.add_row(
        "average R", f"{number(report.avg_rr)} ± {number(report.avg_rr_se)} ({report.rr_count} with known risk)"
    )
    shown.add_row("average time held", f"{number(report.avg_time_held_hours, 1)} h")
    shown.add_row("with domain scores", str(report.with_domain_scores))
    shown.add_row("closed between", f"{at(report.first_closed_at)} and {at(report.last_closed_at)}")
    return out.print(shown)


async def _summary(book: str) -> OutcomesSummary:
    async with database() as session:
        return await outcomes.summary(session, book)
