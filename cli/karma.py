"""Trust in producers."""

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
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
from closeloop.models.positions import KarmaRebuildReport, KarmaRebuildRequest
from closeloop.models.workers import PoliciesInUse
from closeloop.services import karma, workers

app = typer.Typer(help="Trust in producers.")


@app.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    book: BookOption = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Karma of each producer: an EMA of the outcomes of the trades that it signalled, from -1 to 1.

    An ID is a producer's with --book, else BOOK/PRODUCER.
    """
    if context.invoked_subcommand is None:
        run(_list(book, last, before, as_json))


async def _list(book: str | None, last: int | None, before: str | None, as_json: bool) -> None:
    async with database() as session:
        rows = await karma.listing(session, book, last=last, before=before)
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No karma yet: it begins with the first attributed close that carries signals.")
    shown = table(
        "book",
        "producer",
        "karma",
        "wins",
        "losses",
        "trades",
        "updated (UTC)",
        numbers=("karma", "wins", "losses", "trades"),
    )
    for r in rows:
        shown.add_row(
            r.book,
            r.producer_id,
            number(r.karma),
            str(r.wins),
            str(r.losses),
            str(r.trades),
            at(r.updated_at),
        )
    return out.print(shown)


@app.command()
def rebuild(
    book: BookOption = None,
    as_json: AsJson = False,
) -> None:
    """Recompute karma from the attributions in the order in which the positions closed."""
    report, policies = run(hinting(_rebuild(book)))
    if as_json:
        print_json(report)
    else:
        for name, producers in report.producers.items():
            out.print(f"book {name}: karma of {producers} producers rebuilt")
        for name, reason in report.failed.items():
            err.print(f"book {name}: not rebuilt: {reason}")
        if not report.producers and not report.failed:
            out.print("There are no books yet.")
        elif report.karma:
            numbers = ", ".join(f"karma.{name} {value:g}" for name, value in report.karma.items())
            out.print(f"computed with the policy of the worker, {report.policy_hash}: {numbers}", soft_wrap=True)
    if policies.warning:
        err.print(f"policies: {policies.warning}", soft_wrap=True)
    if report.failed:
        raise typer.Exit(1)


async def _rebuild(book: str | None) -> tuple[KarmaRebuildReport, PoliciesInUse]:
    async with temporal() as client, database() as session:
        report = await karma.rebuild(client, session, KarmaRebuildRequest(book=book))
        return report, await workers.policies_in_use(session)
