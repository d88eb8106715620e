"""Timeframe coefficients: which timeframes have lately earned more R than all together."""

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, BeforeOption, BookOption, LastOption, at, number, out, print_json, run, table
from closeloop.models.patterns import Coefficients
from closeloop.services.coefficients import listing


def coefficients(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """Timeframe coefficients: decayed means of R by timeframe, and the weight that follows from them.

    An ID is a module's with --book, else BOOK/MODULE.
    """
    rows = run(_list(book, last, before))
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No coefficients yet: they begin with the first close that carries its risk.")
    shown = table(
        "book", "timeframe", "weight", "mean R, short memory", "mean R, long memory", "trades", "updated (UTC)",
        numbers=("weight", "mean R, short memory", "mean R, long memory", "trades"),
    )  # fmt: skip
    for row in rows:
        config = row.config_data
        of_all = [("all together", {"weight": None} | config.get("global_rr", {}))]
        for name, figures in [*sorted(config.get("timeframe_weights", {}).items()), *of_all]:
            shown.add_row(
                row.book,
                name,
                number(figures["weight"]),
                number(figures.get("rr_short")),
                number(figures.get("rr_long")),
                str(figures.get("n", 0)),
                at(row.updated_at),
            )
    return out.print(shown)


async def _list(book: str | None, last: int | None, before: str | None) -> list[Coefficients]:
    async with database() as session:
        return await listing(session, book, last=last, before=before)
