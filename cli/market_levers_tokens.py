"""``market levers --tokens``: A and E of many tokens in one go."""

from datetime import datetime

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import REFUSALS_SHOWN, at, err, out, print_json, run, table
from closeloop.cli.files import json_messages, read_messages
from closeloop.models.market_levers import LeversOfTokens, RefusedToken, TokenAsked
from closeloop.models.policy import LeversPolicy
from closeloop.services import market_levers

MOST_TOKENS = 10_000


def levers_of_tokens(name: str, instant: datetime, policy: LeversPolicy, as_json: bool) -> None:
    """Print the levers of the tokens of a file; exit status 1 where some are refused."""
    asked = _asked(name)
    found = run(_load(asked, instant, policy))
    if as_json:
        print_json(found)
    else:
        _print(found)
    for each in found.refused[:REFUSALS_SHOWN]:
        err.print(f"line {each.index + 1}{f' ({each.token})' if each.token else ''}: {each.reason}")
    if found.refused:
        raise typer.Exit(1)


async def _load(asked: list[TokenAsked | RefusedToken], instant: datetime, policy: LeversPolicy) -> LeversOfTokens:
    async with database() as session:
        return await market_levers.of_tokens(session, asked, instant, policy)


def _asked(name: str) -> list[TokenAsked | RefusedToken]:
    found: list[TokenAsked | RefusedToken] = []
    for index, each in read_messages(json_messages(name), TokenAsked):
        if index >= MOST_TOKENS:
            raise typer.BadParameter(f"{name} has more than {MOST_TOKENS:,} tokens", param_hint="--tokens")
        found.append(RefusedToken(index=index, token=None, reason=each) if isinstance(each, str) else each)
    return found


def _print(found: LeversOfTokens) -> None:
    numbers = ("A", "E", "size, % of the portfolio", "channels without a state")
    shown = table("token", *numbers, numbers=numbers, title=f"Levers as of {at(found.as_of)} UTC")
    for each in found.tokens:
        shown.add_row(
            each.token,
            f"{each.levers.A:.4f}",
            f"{each.levers.E:.4f}",
            f"{100 * each.levers.position_size_frac:.2f}",
            str(len(each.levers.missing)),
        )
    out.print(shown)
