"""``market backfill`` and ``market contexts``: what closes did not say of the market, and where it comes from."""

from rich.status import Status

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    Book,
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
from closeloop.models.market_contexts import ContextView, MarketBackfillReport
from closeloop.services import market_contexts


def backfill(book: Book, as_json: AsJson = False) -> None:
    """Fill in what closes did not say of the market, from the states on record as of their opening.

    Closes that came with states of their own, or with levers, stay as they are. What is filled in is marked as such,
    and lessons are mined from it when they are built next.
    """
    report = run(hinting(_backfill(book)))
    if as_json:
        return print_json(report)
    out.print(report.sentence, soft_wrap=True)
    if report.actions:
        out.print(
            f"{report.actions:,} actions have another scope now: 'closeloop lessons build --book {book}' mines them.",
            soft_wrap=True,
        )
    return None


async def _backfill(book: str) -> MarketBackfillReport:
    async with temporal() as client:
        with err.status("filling in") as shown:
            return await market_contexts.backfill(client, book, _teller(shown))


def _teller(shown: Status) -> market_contexts.Told:
    def tell(report: MarketBackfillReport) -> None:
        shown.update(f"filling in: {report.closes:,} closes looked at, {report.filled:,} filled in")

    return tell


def contexts(book: Book, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """What closes did not say of the market and the record filled in. An ID is a position's."""
    views = run(_contexts(book, last, before))
    if as_json:
        return print_json(views)
    if not views:
        return out.print("Nothing was filled in: 'closeloop market backfill' does it for closes that say nothing.")
    shown = table("position", "from", "as of (UTC)", "known then", "A", "E", "states", numbers=("A", "E"))
    for view in views:
        shown.add_row(
            view.position_id,
            view.levers_id or str(view.source),
            at(view.as_of),
            "yes" if view.known_then else "no",
            number(view.A_value),
            number(view.E_value),
            ", ".join(f"{name} {state}" for name, state in view.regime_states.items()),
        )
    return out.print(shown)


async def _contexts(book: str, last: int | None, before: str | None) -> list[ContextView]:
    async with database() as session:
        return await market_contexts.listing(session, book, last, before)
