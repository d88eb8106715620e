"""``market propose``, ``market drivers``, ``market revert``: what drivers weigh in a book's levers, and since when."""

from datetime import UTC, datetime

import typer

from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    Book,
    By,
    Note,
    at,
    number,
    out,
    own_secret,
    p_value,
    print_json,
    run,
    settings,
    table,
)
from closeloop.models.market_drivers import DriverChange, DriversAnswer, DriversView
from closeloop.services import market_drivers


def propose(book: Book = "default", as_json: AsJson = False) -> None:
    """Propose other weights of the market's drivers for a book, where its own trades say so; an operator decides.

    Only states that are told from noise count ('closeloop market evidence'), and what is believed grows stricter with
    every doubling of the trades. Nothing changes before an approval.
    """
    policy, secret = settings().learning_policy(), own_secret()

    async def ask() -> DriversAnswer:
        async with database_sessions() as sessions, temporal() as client:
            return await market_drivers.propose(client, sessions, policy, book, datetime.now(UTC), secret)

    found = run(ask())
    if as_json:
        return print_json(found)
    if found.found.counted:
        shown = table("driver", "factor", "proposed", "states told from noise", "why", numbers=("factor", "proposed"))
        for each in found.found.changes:
            proposed = "-" if each.after == each.before else number(each.after)
            shown.add_row(each.driver, number(each.before), proposed, _states(each), each.reason)
        out.print(shown)
    out.print(found.sentence, soft_wrap=True)
    if found.proposal is None:
        return None
    assert found.deadline is not None, "a proposal has one"
    return out.print(
        f"Waits until {at(found.deadline)} UTC: closeloop approvals approve {found.proposal} --by NAME   (or reject)",
        soft_wrap=True,
    )


def drivers(book: Book = "default", as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """What the market's drivers weigh in a book's levers, since when, and who decided that."""
    policy, instant = settings().learning_policy().levers, as_of or datetime.now(UTC)

    async def load() -> DriversView:
        async with database() as session:
            return await market_drivers.status(session, policy, book, instant)

    found = run(load())
    if as_json:
        return print_json(found)
    shown = table("driver", "policy", "x factor", "= weight", numbers=("policy", "x factor", "= weight"))
    for name, weight in found.policy_weights.items():
        shown.add_row(name, number(weight), number(found.factors[name]), number(found.weights[name]))
    out.print(shown)
    if found.since is None:
        out.print(f"Book {book}: the policy's weights; nobody has decided otherwise.")
    else:
        what = f"proposal {found.proposal}, approved" if found.proposal else "back to the policy's weights, decided"
        note = f": {found.note}" if found.note else ""
        out.print(f"Since {at(found.since)} UTC: {what} by {found.operator}{note}", soft_wrap=True, markup=False)
    if found.waiting is not None and found.waits_until is not None:
        out.print(f"{found.waiting} waits until {at(found.waits_until)} UTC: closeloop approvals show {found.waiting}")
    return None


def revert(by: By, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Go back to the policy's weights of the market's drivers for a book, at once."""
    if not by.strip():
        raise typer.BadParameter("must not be empty", param_hint="--by")

    async def back() -> bool:
        async with database_sessions() as sessions, temporal() as client:
            return await market_drivers.revert(client, sessions, book, by[:200], note[:4000])

    changed = run(back())
    if as_json:
        return print_json({"book": book, "changed": changed})
    return out.print(f"Book {book}: " + ("the policy's weights from now on" if changed else "it has them already"))


def _states(change: DriverChange) -> str:
    return (
        ", ".join(
            f"{series.timeframe} {each.state} {each.effect:+.2f} R (q {p_value(each.q)})"
            for series in change.series
            for each in series.states
        )
        or "-"
    )
