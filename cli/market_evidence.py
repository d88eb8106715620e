"""``market evidence``: what states of the market have been worth on a book's own trades; first, what cannot be said."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, AsOfOption, Book, at, number, out, p_value, print_json, run, settings, table
from closeloop.cli.instants import instant
from closeloop.models.market_worth import MarketEvidence, StateWorth, TooFew
from closeloop.services import market_evidence

_FEW = {
    TooFew.trades: "too few trades",
    TooFew.spells: "too few spells",
    TooFew.luck: "too few days or symbols",
}


def evidence(
    book: Book,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=instant, metavar="TIME", help="Only trades opened from then on. Default: all."),
    ] = None,
    as_of: AsOfOption = None,
    as_json: AsJson = False,
) -> None:
    """What each state of the market has been worth on a book's trades, and what cannot be said of it.

    In R: the mean of the trades opened in a state, less that of the others. A spell of a state is one piece of
    evidence, however many trades were opened in it. Nothing is changed by it. Each --since is another look, and one
    more chance to find something in noise.
    """
    policy = settings().learning_policy()

    async def load() -> MarketEvidence:
        async with database() as session:
            return await market_evidence.evidence(session, policy, book, since, as_of or datetime.now(UTC))

    found = run(load())
    if as_json:
        return print_json(found)
    out.print("This cannot say:")
    for sentence in found.cannot_say:
        out.print(f"- {sentence}", soft_wrap=True)
    if not found.with_states:
        return None
    out.print(_counted(found), soft_wrap=True)
    shown = table(
        "driver", "timeframe", "state", "trades", "spells", "R more than others", "95 %", "p", "q", "",
        numbers=("trades", "spells", "R more than others", "p", "q"),
    )  # fmt: skip
    for each in found.states:
        shown.add_row(*_row(each))
    return out.print(shown)


def _counted(found: MarketEvidence) -> str:
    said = (
        f"Book {found.book}, as of {at(found.as_of)} UTC: {found.with_states:,} trades with states ({found.sent:,} "
        f"sent them, {found.from_levers:,} name levers, {found.backfilled:,} backfilled); of {found.known_later:,} the "
        "states were computed only after the opening, from what had happened by then. "
    )
    if found.recorded_later:
        said += f"{found.recorded_later:,} came on record only after {at(found.as_of)}. "
    said += f"Counted: the first {found.counted:,} to close, opened {at(found.first_opened_at)} to "
    said += f"{at(found.last_opened_at)}; looked at next with {found.next_look:,}."
    if found.repeated:
        said += f" {found.repeated:,} are another trade again, and left out."
    if found.other_names:
        said += f" {found.other_names:,} name states that there are not; these are left out."
    return said


def _row(each: StateWorth) -> tuple[str, ...]:
    told = _FEW[each.too_few] if each.too_few is not None else "told from noise" if each.told else "can be noise"
    interval = "-" if each.low is None or each.high is None else f"{each.low:+.3f} to {each.high:+.3f}"
    quiet = each.too_few is not None
    return (
        each.driver,
        each.timeframe,
        each.state,
        f"{each.n:,} / {each.n_other:,}",
        f"{each.spells:,} / {each.spells_other:,}",
        "-" if quiet or each.effect is None else f"{each.effect:+.3f}",
        interval,
        number(None) if quiet else p_value(each.p),
        number(None) if quiet else p_value(each.q),
        told,
    )
