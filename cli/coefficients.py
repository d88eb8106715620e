"""Timeframe coefficients: which timeframes have lately earned more R than all together."""

from typing import Any

from closeloop import store
from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, BookOption, at, number, out, print_json, run, table


def coefficients(book: BookOption = None, as_json: AsJson = False) -> None:
    """Timeframe coefficients: decayed means of R by timeframe, and the weight that follows from them."""
    rows = run(_load(book))
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No coefficients yet: they begin with the first close that carries its risk.")
    shown = table(
        "book", "timeframe", "weight", "mean R, short memory", "mean R, long memory", "trades", "updated (UTC)",
        numbers=("weight", "mean R, short memory", "mean R, long memory", "trades"),
    )  # fmt: skip
    for row in rows:
        config = row["config_data"]
        of_all = [("all together", {"weight": None} | config.get("global_rr", {}))]
        for name, told in [*sorted(config.get("timeframe_weights", {}).items()), *of_all]:
            shown.add_row(
                row["book"],
                name,
                number(told["weight"]),
                number(told.get("rr_short")),
                number(told.get("rr_long")),
                str(told.get("n", 0)),
                at(row["updated_at"]),
            )
    return out.print(shown)


async def _load(book: str | None) -> list[dict[str, Any]]:
    async with database() as session:
        return [dict(row) for row in await store.patterns.configs(session, book)]
