"""What became of closed positions."""

from decimal import Decimal
from typing import Any

import typer

from closeloop import store
from closeloop.cli.connections import database
from closeloop.cli.console import (
    AsJson,
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
from closeloop.learning.intervals import wilson_interval
from closeloop.models.sentences import signed

app = typer.Typer(help="Outcomes of closed positions.")


@app.callback(invoke_without_command=True)
def outcomes(context: typer.Context, book: BookOption = None, last: LastOption = None, as_json: AsJson = False) -> None:
    """List the outcomes, oldest first."""
    if context.invoked_subcommand is None:
        run(_list(book, last, as_json))


async def _list(book: str | None, last: int | None, as_json: bool) -> None:
    async with database() as session:
        found = store.attributions.listing(session, book, last)
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
            out.print("No outcomes yet. Import some ('closeloop import --help') or try 'closeloop demo'.")
        else:
            out.print(shown)


@app.command()
def summary(
    book: Book,
    as_json: AsJson = False,
) -> None:
    """Count, hit rate with its 95 % interval, PnL and R of a book."""
    report = run(summarise(book))
    if as_json:
        return print_json(report)
    if report["count"] == 0:
        return out.print(f"Book {book} has no outcomes yet.")
    shown = table("", "", title=f"Book {book}")
    low, high = report["hit_rate_low"], report["hit_rate_high"]
    shown.add_row("closed positions", str(report["count"]))
    shown.add_row("hit rate", f"{report['hit_rate']:.1%} (95 % interval {low:.1%} to {high:.1%})")
    shown.add_row("realised PnL", signed(Decimal(report["realized_pnl"])))
    shown.add_row(
        "average R",
        f"{number(report['avg_rr'])} ± {number(report['avg_rr_se'])} ({report['rr_count']} with known risk)",
    )
    shown.add_row("average time held", f"{number(report['avg_time_held_hours'], 1)} h")
    shown.add_row("with domain scores", str(report["with_domain_scores"]))
    shown.add_row("closed between", f"{at(report['first_closed_at'])} and {at(report['last_closed_at'])}")
    return out.print(shown)


async def summarise(book: str) -> dict[str, Any]:
    """The summary as ``--json`` prints it."""
    async with database() as session:
        row = dict(await store.attributions.summary(session, book))
    count, wins, sd = row["count"], row["wins"], row.pop("sd_rr")
    low, high = wilson_interval(wins, count) or (None, None)
    return {
        "book": book,
        **row,
        "realized_pnl": format(row["realized_pnl"], "f"),
        "avg_rr_se": sd / row["rr_count"] ** 0.5 if sd is not None else None,
        "hit_rate": wins / count if count else None,
        "hit_rate_low": low,
        "hit_rate_high": high,
    }
